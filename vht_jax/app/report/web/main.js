// Puts the page together.

/** A sentence whose flags (--fov) are not broken into two lines. */
function words(text) {
  return text.split(/(--\w+)/).map((part, i) => (i % 2 ? make("span", { className: "flag", textContent: part }) : part));
}

/** What happened; what it means and what to do about it unfolds, on a phone when it is touched. */
function adviceBox(level, text) {
  const end = text.search(/[.!?] [A-Z]/);
  if (end < 0) return make("p", { className: level }, ...words(text));
  return make("details", { className: level, open: innerWidth > 720 }, make("summary", {}, ...words(text.slice(0, end + 1))), ...words(text.slice(end + 1)));
}

function startTexts() {
  const [height, width] = data.size;
  $("subtitle").textContent = `${nFrames} frames · ${width} × ${height} px · ${+data.frameRate.toFixed(2)} frames/s`;
  for (const { label, value, detail, level } of data.figures) {
    $("figures").append(make("div", { className: `figure ${level ?? ""}` }, make("small", { textContent: label }), make("b", { textContent: value }), make("span", { className: "hint detail", textContent: detail })));
  }
  for (const { level, text } of data.advice) $("advice").append(adviceBox(level, text));
  if (!data.advice.some((a) => a.level === "warning")) $("advice").prepend(make("p", { className: "good", textContent: "Nothing to warn about." }));
  for (const [name, value] of data.facts) $("facts").append(make("dt", { textContent: name }), make("dd", { textContent: value }));
  const stages = Object.entries(data.stages);
  const longest = Math.max(...stages.map(([, seconds]) => seconds), 1e-9);
  for (const [name, seconds] of stages) {
    const bar = make("i");
    bar.style.width = `${(100 * seconds) / longest}%`;
    $("stages").append(make("span", { textContent: name }), bar, make("span", { textContent: `${seconds.toFixed(1)} s` }));
  }
  const changed = data.settings.filter((s) => s.changed).length;
  $("settings-hint").textContent = `${data.settings.length}, ${changed} of them not the default`;
  const rows = [...data.settings].sort((a, b) => Number(b.changed) - Number(a.changed));
  $("settings-table").append(make("table", {}, ...rows.map((s) => make("tr", { className: s.changed ? "changed" : "" }, make("td", { textContent: s.name }), make("td", { textContent: s.value }), make("td", { textContent: s.help })))));
  if (!data.settings.length) $("settings").closest(".card").remove();
  if (!stages.length) $("stages").closest(".card").remove();
}

startTexts();
startTimeline();
startPlots();
startHeat();
startVideo();
// For those who drive the page from a script, as its test does.
window.report = { data, state, player, head3d, setFrame, setPlaying, setView, jump, pictureShown, ready: startHead() };
