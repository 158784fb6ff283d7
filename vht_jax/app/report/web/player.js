// The one clock of the page: the video's while there is one, else the browser's.

const LATE = 60; // ms after which a picture that the browser does not announce counts as there
const SETTLES = 2000; // ms after that in which a busy browser may still put it in place, and say nothing

const video = $("video");
const player = { hasVideo: false, shown: 0, sought: 0, wanted: null, busy: false, pictured: null, waiting: [], box: [0, 0, 1, 1], unsure: 0 };

/** Shows a frame everywhere. `fromVideo`: the video shows it already. */
function setFrame(frame, fromVideo = false) {
  frame = clamp(Math.round(frame), 0, nFrames - 1);
  const changed = frame !== state.frame;
  state.frame = frame;
  if (player.hasVideo && !fromVideo && (changed || player.shown !== frame)) seek(frame);
  if (changed) {
    keepInView(frame);
    tell("frame");
  }
}

/** Moves the curves along when the frame has left them. */
function keepInView(frame) {
  const [first, last] = state.view;
  if (frame >= first && frame <= last) return;
  const span = last - first;
  const start = clamp(frame < first ? frame - 0.9 * span : frame - 0.1 * span, 0, Math.max(nFrames - 1 - span, 0));
  setView(start, start + span);
}

function setView(first, last) {
  const whole = Math.max(nFrames - 1, 1);
  const span = clamp(last - first, Math.min(10, whole), whole);
  first = clamp(first, 0, whole - span);
  state.view = [first, first + span];
  tell("view");
}

function setPlaying(playing) {
  if (playing === state.playing) return;
  if (playing && state.frame >= nFrames - 1) setFrame(0);
  state.playing = playing;
  $("play").classList.toggle("playing", playing);
  $("play").setAttribute("aria-label", playing ? "Pause" : "Play");
  if (player.hasVideo) {
    video.playbackRate = state.speed;
    if (playing) video.play().catch(() => setPlaying(false));
    else {
      video.pause();
      seek(state.frame);
    }
  } else if (playing) runClock();
}

function setSpeed(speed) {
  state.speed = speed;
  video.playbackRate = speed;
}

/** Without a video: frames at their own times. */
function runClock() {
  const start = performance.now();
  const from = data.times[state.frame];
  const step = (now) => {
    if (!state.playing) return;
    const time = from + ((now - start) / 1000) * state.speed;
    let frame = state.frame;
    while (frame < nFrames - 1 && data.times[frame + 1] <= time) frame++;
    setFrame(frame);
    if (frame >= nFrames - 1) setPlaying(false);
    else requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

// A video that is still seeking is not asked for another picture: the last wish waits.
function seek(frame) {
  player.wanted = frame;
  if (!player.busy && video.readyState > 0) nextSeek();
}

function nextSeek() {
  player.sought = player.wanted;
  player.wanted = null;
  player.busy = true;
  video.currentTime = (startOf(player.sought) + startOf(player.sought + 1)) / 2;
}

/** When the video shows a frame, s; a film whose rate varies plays in its own time. */
function startOf(frame) {
  const times = data.videoTimes;
  if (!times) return frame / data.frameRate;
  return frame < nFrames ? times[frame] : times[nFrames - 1] + 1 / data.frameRate;
}

/** What the video shows at a time. */
function frameAtTime(time) {
  const times = data.videoTimes;
  if (!times) return clamp(Math.floor(time * data.frameRate + 1e-3), 0, nFrames - 1);
  let [low, high] = [0, nFrames - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (times[middle] <= time + 1e-4) low = middle;
    else high = middle - 1;
  }
  return low;
}

// After fast jumps Chromium goes on painting a picture that was sought before, though the video has the right one. So
// the page paints itself: what the video has when it says that it is there.
const picture = $("picture");
const brush = picture.getContext("2d");

function paint() {
  if (video.readyState < 2) return;
  const [x, y, w, h] = player.box;
  const [width, height] = [video.videoWidth * w, video.videoHeight * h].map(Math.round);
  if (picture.width !== width || picture.height !== height) Object.assign(picture, { width, height });
  brush.drawImage(video, Math.round(x * video.videoWidth), Math.round(y * video.videoHeight), width, height, 0, 0, width, height);
}

video.addEventListener("seeked", () => {
  if (!player.busy) return;
  paint();
  // A busy browser may say so with the picture before still in place: the callback below tells when it has changed.
  clearTimeout(player.late);
  if (!video.requestVideoFrameCallback || (picturedNow() ?? player.pictured) === player.sought) arrive();
  else player.late = setTimeout(arrive, LATE);
});

/** The frame whose picture the video has, if the browser can tell (not of a film beside the page). */
function picturedNow() {
  try {
    const found = new VideoFrame(video);
    const time = found.timestamp / 1e6;
    found.close();
    return frameAtTime(time + 1e-3);
  } catch {
    return null;
  }
}

function onPicture(_, { mediaTime }) {
  player.pictured = frameAtTime(mediaTime + 1e-3);
  paint();
  if (player.busy && !video.seeking && player.pictured === player.sought) arrive();
  video.requestVideoFrameCallback(onPicture);
}

/** The picture that was sought is painted; on to what has been wished for since. */
function arrive() {
  clearTimeout(player.late);
  if (!player.busy) return;
  player.busy = false;
  player.shown = player.sought;
  player.unsure = performance.now() + SETTLES;
  paint();
  tell("picture");
  if (player.wanted !== null && player.wanted !== player.shown) return nextSeek();
  player.wanted = null;
  player.waiting.splice(0).forEach((done) => done(player.shown));
}

video.addEventListener("ended", () => {
  setFrame(nFrames - 1, true);
  setPlaying(false);
});

function follow() {
  if (state.playing) {
    const frame = frameAtTime(video.currentTime);
    player.shown = frame;
    paint();
    setFrame(frame, true);
  } else if (performance.now() < player.unsure) paint();
  requestAnimationFrame(follow);
}

/** Resolves when the picture of the current frame is there. */
function pictureShown() {
  if (!player.hasVideo || (!player.busy && player.wanted === null && video.readyState > 1)) return Promise.resolve();
  return new Promise((done) => player.waiting.push(done));
}

function startVideo() {
  const embedded = $("video-data").textContent.length > 0;
  if (!embedded && !data.videoFile) {
    $("viewer").classList.add("no-video");
    return;
  }
  player.hasVideo = true;
  video.requestVideoFrameCallback?.(onPicture);
  video.src = embedded ? URL.createObjectURL(new Blob([takeBytes("video-data")], { type: "video/mp4" })) : data.videoFile;
  video.addEventListener("loadedmetadata", () => {
    choosePanel(player.panel);
    seek(state.frame);
  });
  video.addEventListener("loadeddata", paint);
  video.addEventListener("error", () => $("video-card").querySelector(".stage").replaceChildren(
    make("p", { className: "hint", textContent: data.videoFile
      ? `${data.videoFile} has to lie beside this page: it is too large to be inside it.`
      : "This browser cannot play the video (H.264)." })));
  const names = data.panels.map((p) => p.name);
  // A picture each is large enough on a phone; side by side they show more where there is room.
  const first = names.includes("overlay") ? "overlay" : "all";
  choice($("panels"), ["all", ...names], first, choosePanel);
  follow();
}

/** Shows one of the pictures that the video has side by side, or all of them. */
function choosePanel(name) {
  player.panel = name;
  player.box = (data.panels.find((p) => p.name === name) ?? { box: [0, 0, 1, 1] }).box;
  const [, , w, h] = player.box;
  const whole = (video.videoWidth || data.size[1]) / (video.videoHeight || data.size[0]);
  $("screen").style.setProperty("--aspect", String((whole * w) / h));
  $("video-card").style.setProperty("--stage-aspect", String((whole * w) / h));
  paint();
}
