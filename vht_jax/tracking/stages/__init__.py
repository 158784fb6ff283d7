"""The stages of the pipeline, a file each: functions `stage(state, run) -> state` of a `TrackState` and a `Run`."""
