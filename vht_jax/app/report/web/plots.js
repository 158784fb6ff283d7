// Curves per frame. All share the frames that are shown; a needle marks the current one.

const curves = [];
const AXIS_SIZE = () => parseInt(css("--axis"), 10);
const RIGHT = 10; // px beside the curves; the heat map has the same

function curve(plot, isLast) {
  const x = data.frames.map((_, i) => i);
  const columns = [x];
  const series = [{}];
  const bands = [];
  plot.series.forEach((s, k) => {
    const color = `--series-${1 + (k % 6)}`;
    columns.push(s.values);
    series.push({ label: s.name, stroke: () => css(color), width: 1.5, points: { show: nFrames < 2 }, spanGaps: false });
    if (s.sd) {
      const edge = (sign) => s.values.map((v, i) => (v === null || s.sd[i] === null ? null : v + sign * s.sd[i]));
      columns.push(edge(1), edge(-1));
      const hidden = { stroke: null, width: 0, points: { show: false } };
      series.push({ ...hidden }, { ...hidden });
      bands.push({ series: [series.length - 2, series.length - 1], fill: () => css(color) + "2b" });
    }
  });
  const range = (u, low, high) => {
    if (low === null || high === null) return [0, 1];
    const fixed = plot.range ?? [null, null];
    const room = 0.08 * Math.max(high - low, 1e-3);
    return [fixed[0] ?? low - room, fixed[1] ?? high + room];
  };
  const axis = { stroke: () => css("--muted"), font: "11px system-ui, sans-serif", ticks: { show: false } };
  const grid = { stroke: () => css("--faint"), width: 1 };
  const titles = make("div", {}, make("h3", {}, `${plot.title} `, make("small", { textContent: plot.unit })));
  const values = plot.series.map((s, k) => {
    const number = make("b");
    const row = make("span", { className: "value" }, plot.series.length > 1 ? s.name : "", number);
    row.style.setProperty("--color", `var(--series-${1 + (k % 6)})`);
    titles.append(row);
    return number;
  });
  const target = make("div");
  const box = make("div", { className: "plot" }, titles, target);
  $("plots").append(box);
  const height = () => (innerWidth < 721 ? 74 : Math.max(84, 34 + 20 * plot.series.length)) + (isLast ? 22 : 0);
  const u = new uPlot({
    width: Math.max(target.clientWidth, 100), height: height(), pxAlign: 0,
    padding: [6, RIGHT, isLast ? 0 : 6, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false, setScale: false }, points: { size: 6 }, sync: { key: "report" } },
    scales: { x: { time: false, range: () => state.view }, y: { range } },
    axes: [
      { ...axis, grid, show: true, size: isLast ? 22 : 0, values: isLast ? (_, ticks) => ticks.map((t) => (Number.isInteger(t) ? (data.frames[t] ?? "") : "")) : () => [] },
      { ...axis, grid, size: AXIS_SIZE, space: 26 },
    ],
    series, bands,
    hooks: { drawClear: [shadeDoubtful] },
  }, columns, target);
  const needle = make("div", { className: "needle" });
  u.over.append(needle);
  scrubOn(u.over, (event) => u.posToVal(event.clientX - u.over.getBoundingClientRect().left, "x"));
  u.over.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.shiftKey) return;
    event.preventDefault();
    zoom(Math.exp(0.0015 * (event.deltaY || event.deltaX)), u.posToVal(event.clientX - u.over.getBoundingClientRect().left, "x"));
  }, { passive: false });
  const digits = plot.series[0].values.some((v) => Math.abs(v) >= 10) ? 1 : plot.unit === "of 1" ? 3 : 2;
  return { plot, u, needle, values, digits, target, height };
}

function shadeDoubtful(u) {
  const context = u.ctx;
  context.save();
  context.fillStyle = css("--doubt");
  for (const run of data.doubtful) {
    if (run.last < state.view[0] || run.first > state.view[1]) continue;
    const left = Math.max(u.valToPos(run.first - 0.5, "x", true), u.bbox.left);
    const right = Math.min(u.valToPos(run.last + 0.5, "x", true), u.bbox.left + u.bbox.width);
    context.fillRect(left, u.bbox.top, Math.max(right - left, 2), u.bbox.height);
  }
  context.restore();
}

function showCurveValues() {
  const [first, last] = state.view;
  const share = (state.frame - first) / (last - first);
  for (const { plot, u, needle, values, digits } of curves) {
    needle.style.transform = `translateX(${share * u.over.clientWidth}px)`;
    needle.hidden = share < 0 || share > 1;
    plot.series.forEach((s, k) => {
      const value = s.values[state.frame];
      const text = value === null ? "–" : value.toFixed(digits);
      if (values[k].textContent !== text) values[k].textContent = text;
    });
  }
}

function zoom(factor, centre = state.frame) {
  const [first, last] = state.view;
  setView(centre - (centre - first) * factor, centre + (last - centre) * factor);
}

function startPlots() {
  data.plots.forEach((plot, k) => curves.push(curve(plot, k === data.plots.length - 1)));
  $("zoom-in").onclick = () => zoom(0.5);
  $("zoom-out").onclick = () => zoom(2);
  $("zoom-all").onclick = () => setView(0, nFrames - 1);
  on("frame", showCurveValues);
  on("view", () => {
    for (const { u } of curves) u.setScale("x", { min: state.view[0], max: state.view[1] });
    showCurveValues();
  });
  on("theme", () => curves.forEach(({ u }) => u.redraw(false, true)));
  on("size", () => {
    for (const { u, target, height } of curves) {
      if (u.width !== target.clientWidth || u.height !== height()) u.setSize({ width: target.clientWidth, height: height() });
    }
    showCurveValues();
  });
  showCurveValues();
}
