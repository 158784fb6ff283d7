// The expression units: a row each, a column per frame.

const heat = { rows: [], all: false };

function parseColor(text) {
  const n = parseInt(text.slice(1), 16);
  return [(n >> 16) & 255, (n >> 8) & 255, n & 255];
}

/** The value that is drawn in full colour: what nearly all stay below, at least half a unit. */
function heatScale() {
  const values = data.units.values.flat().map(Math.abs).sort((a, b) => a - b);
  return Math.max(values[Math.floor(0.998 * (values.length - 1))] ?? 1, 0.5);
}

function heatImage() {
  const [zero, plus, minus] = ["--heat-zero", "--heat-plus", "--heat-minus"].map((c) => parseColor(css(c)));
  const image = new ImageData(nFrames, heat.rows.length);
  heat.rows.forEach((unit, row) => {
    data.units.values[unit].forEach((value, frame) => {
      const share = clamp((value ?? 0) / heat.scale, -1, 1);
      const end = share < 0 ? minus : plus;
      const at = 4 * (row * nFrames + frame);
      for (let c = 0; c < 3; c++) image.data[at + c] = zero[c] + (end[c] - zero[c]) * Math.abs(share);
      image.data[at + 3] = 255;
    });
  });
  const canvas = new OffscreenCanvas(nFrames, heat.rows.length);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function drawHeat() {
  const context = fitCanvas(heat.canvas);
  context.imageSmoothingEnabled = false;
  // Frames are columns here and points of the curves: half a column hangs over at either end.
  const [first, last] = state.view;
  const { width, height } = heat.canvas;
  context.fillStyle = css("--heat-zero");
  context.fillRect(0, 0, width, height);
  const scale = width / (last - first);
  context.drawImage(heat.image, 0, 0, nFrames, heat.rows.length, (-0.5 - first) * scale, 0, nFrames * scale, height);
  moveHeatNeedle();
}

function moveHeatNeedle() {
  const share = (state.frame - state.view[0]) / (state.view[1] - state.view[0]);
  heat.needle.style.transform = `translateX(${share * heat.canvas.clientWidth}px)`;
  heat.needle.hidden = share < 0 || share > 1;
}

function showHeatValues() {
  moveHeatNeedle();
  heat.rows.forEach((unit, row) => {
    const value = data.units.values[unit][state.frame] ?? 0;
    const text = value.toFixed(2).replace("-0.00", "0.00");
    const { item, number } = heat.items[row];
    if (number.textContent !== text) number.textContent = text;
    item.classList.toggle("on", Math.abs(value) > 0.15 * heat.scale);
  });
}

function buildHeat() {
  const { names, values } = data.units;
  const largest = values.map((row) => row.reduce((most, v) => Math.max(most, Math.abs(v ?? 0)), 0));
  const used = names.map((_, i) => i).filter((i) => heat.all || largest[i] > 0.1 * heat.scale);
  heat.rows = used.length ? used : names.map((_, i) => i);
  const rowHeight = heat.rows.length > 60 ? 12 : 17;
  heat.items = heat.rows.map((unit) => {
    const number = make("b");
    const item = make("li", {}, make("span", { textContent: names[unit] }), number);
    item.style.height = item.style.lineHeight = `${rowHeight}px`;
    return { item, number };
  });
  heat.list.replaceChildren(...heat.items.map(({ item }) => item));
  heat.area.style.height = `${rowHeight * heat.rows.length}px`;
  heat.image = heatImage();
  drawHeat();
  showHeatValues();
}

function startHeat() {
  if (!data.units.names.length) {
    $("expression").remove();
    return;
  }
  heat.scale = heatScale();
  heat.list = make("ol");
  heat.canvas = make("canvas");
  heat.needle = make("div", { className: "needle" });
  heat.area = make("div", { className: "area" }, heat.canvas, heat.needle);
  $("heat").append(heat.list, heat.area);
  const frameAt = (event) => {
    const box = heat.canvas.getBoundingClientRect();
    return state.view[0] + ((event.clientX - box.left) / box.width) * (state.view[1] - state.view[0]);
  };
  scrubOn(heat.area, frameAt);
  heat.area.addEventListener("pointermove", (event) => {
    const box = heat.canvas.getBoundingClientRect();
    const row = clamp(Math.floor(((event.clientY - box.top) / box.height) * heat.rows.length), 0, heat.rows.length - 1);
    const frame = clamp(Math.round(frameAt(event)), 0, nFrames - 1);
    const unit = heat.rows[row];
    $("heat-readout").textContent = `${data.units.names[unit]} ${(data.units.values[unit][frame] ?? 0).toFixed(2)} in frame ${data.frames[frame]}`;
  });
  heat.area.addEventListener("pointerleave", () => ($("heat-readout").textContent = ""));
  for (const [id, all] of [["units-used", false], ["units-all", true]]) {
    $(id).onclick = () => {
      heat.all = all;
      $("units-used").setAttribute("aria-pressed", String(!all));
      $("units-all").setAttribute("aria-pressed", String(all));
      buildHeat();
    };
  }
  const both = data.units.values.flat().some((v) => v < -0.05 * heat.scale);
  const bar = make("i");
  bar.style.background = `linear-gradient(90deg, ${both ? "var(--heat-minus), " : ""}var(--heat-zero), var(--heat-plus))`;
  $("heat-legend").append(both ? (-heat.scale).toFixed(1) : "0", bar, heat.scale.toFixed(1));
  buildHeat();
  on("frame", showHeatValues);
  on("view", drawHeat);
  on("size", drawHeat);
  on("theme", buildHeat);
}
