"""Frames in and out: video files, VHT's folders of frames, and the observations that the tracker reads."""

from vht_jax.video.codec import VideoInfo, read_video, write_video
from vht_jax.video.cuts import find_cuts
from vht_jax.video.extract import extract_frames
from vht_jax.video.frames import FrameFolder, Keypoints

__all__ = ["FrameFolder", "Keypoints", "VideoInfo", "extract_frames", "find_cuts", "read_video", "write_video"]
