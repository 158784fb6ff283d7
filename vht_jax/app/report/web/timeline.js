// The bar with the time: a strip coloured by confidence, buttons, keys, and the doubtful frames to jump to.

const strip = $("strip");

function drawStrip() {
  const context = fitCanvas(strip);
  const { width, height } = strip;
  const [good, warning, bad] = ["--good", "--warning", "--bad"].map(css);
  context.clearRect(0, 0, width, height);
  // The thumb's centre keeps half its width from the ends.
  const edge = (7 * width) / Math.max(strip.clientWidth, 1);
  const frameAt = (x) => clamp(Math.round(((x - edge) / (width - 2 * edge)) * (nFrames - 1)), 0, nFrames - 1);
  const at = (frame) => edge + ((width - 2 * edge) * frame) / Math.max(nFrames - 1, 1);
  context.fillStyle = css("--faint");
  context.fillRect(0, 0, width, height);
  for (let x = Math.floor(edge); x < width - edge; x++) {
    // Of several frames in one column the worst is shown.
    let [confidence, lost] = [1, false];
    for (let i = frameAt(x); i <= frameAt(x + 1); i++) {
      lost ||= data.status[i] !== 0;
      confidence = Math.min(confidence, data.confidence[i] ?? 0);
    }
    const doubtful = lost || confidence < data.doubtfulBelow;
    const tall = lost ? height : Math.max(height * confidence, 1);
    context.fillStyle = lost ? bad : doubtful ? warning : good;
    context.globalAlpha = doubtful ? 0.9 : 0.45;
    context.fillRect(x, height - tall, 1, tall);
  }
  context.globalAlpha = 1;
  const [first, last] = state.view;
  if (last - first < nFrames - 1.5) {
    context.strokeStyle = css("--accent");
    context.lineWidth = 2 * (window.devicePixelRatio || 1);
    context.strokeRect(at(first), 1, at(last) - at(first), height - 2);
  }
}

function showNow() {
  const i = state.frame;
  $("slider").value = String(i);
  const status = data.status[i] !== 0 ? data.statusNames[data.status[i]] : "";
  const confidence = data.confidence[i] ?? 0;
  const mark = status ? make("span", { className: "lost", textContent: ` ${status}` })
    : confidence < data.doubtfulBelow ? make("span", { className: "doubt", textContent: " doubtful" }) : "";
  $("now").replaceChildren(`frame ${data.frames[i]} `, make("small", { textContent: `${(data.times[i] ?? 0).toFixed(2)} s` }), mark);
  $("slider").setAttribute("aria-valuetext", `frame ${data.frames[i]} ${status}`);
  const at = data.doubtful.findIndex((run) => i >= run.first && i <= run.last);
  document.querySelectorAll("#doubtful button[data-run]").forEach((button) =>
    button.setAttribute("aria-current", String(Number(button.dataset.run) === at)));
}

/** To the least certain frame of the next (or last) run of doubtful frames. */
function jump(direction) {
  const runs = data.doubtful;
  const next = direction > 0 ? runs.find((r) => r.worst > state.frame) : runs.findLast((r) => r.worst < state.frame);
  if (!next) return;
  setPlaying(false);
  setFrame(next.worst);
}

function startTimeline() {
  const slider = $("slider");
  slider.max = String(nFrames - 1);
  slider.addEventListener("input", () => {
    setPlaying(false);
    setFrame(Number(slider.value));
  });
  $("play").onclick = () => setPlaying(!state.playing);
  const step = (n) => {
    setPlaying(false);
    setFrame(state.frame + n);
  };
  $("before").onclick = () => step(-1);
  $("after").onclick = () => step(1);
  $("doubt-before").onclick = () => jump(-1);
  $("doubt-after").onclick = () => jump(1);
  $("speed").onchange = (event) => setSpeed(Number(event.target.value));
  $("doubt-before").hidden = $("doubt-after").hidden = data.doubtful.length === 0;

  const keys = {
    " ": () => setPlaying(!state.playing), ArrowLeft: (e) => step(e.shiftKey ? -10 : -1), ArrowRight: (e) => step(e.shiftKey ? 10 : 1),
    j: () => jump(1), k: () => jump(-1), Home: () => step(-nFrames), End: () => step(nFrames),
  };
  addEventListener("keydown", (event) => {
    const call = keys[event.key];
    if (!call || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, summary")) return;
    if (event.key === " " && event.target.matches("button")) event.target.blur();
    event.preventDefault();
    call(event);
  });

  const shown = 12;
  const buttons = data.doubtful.map((run, k) => {
    const [a, b] = [data.frames[run.first], data.frames[run.last]];
    const why = data.status[run.worst] !== 0 ? data.statusNames[data.status[run.worst]] : `confidence ${(data.confidence[run.worst] ?? 0).toFixed(2)}`;
    const button = make("button", { textContent: `${a === b ? a : `${a}–${b}`} · ${why}`, onclick: () => { setPlaying(false); setFrame(run.worst); } });
    button.dataset.run = String(k);
    button.hidden = k >= shown;
    return button;
  });
  if (buttons.length) {
    $("doubtful").append("Worth a look: ", ...buttons);
    if (buttons.length > shown) {
      const more = make("button", { textContent: `${buttons.length - shown} more`, onclick: () => { buttons.forEach((b) => (b.hidden = false)); more.remove(); } });
      $("doubtful").append(more);
    }
  }
  on("frame", showNow);
  for (const what of ["view", "theme", "size"]) on(what, drawStrip);
  drawStrip();
  showNow();
}
