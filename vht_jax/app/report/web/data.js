"use strict";
// The run's data, the state that all parts of the page share, and small helpers.

const data = JSON.parse(document.getElementById("data").textContent);
const nFrames = data.frames.length;
const $ = (id) => document.getElementById(id);
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// What is shown: a frame, whether it runs, and the first and last frame of the curves.
const state = { frame: 0, playing: false, speed: 1, view: [0, Math.max(nFrames - 1, 1)] };
const listeners = { frame: [], picture: [], view: [], theme: [], size: [] };
const on = (what, call) => listeners[what].push(call);
const tell = (what) => listeners[what].forEach((call) => call());

/** An element with properties and children. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Buttons of which one is chosen; `choose(name)` is called with it, at first as well. */
function choice(box, names, first, choose) {
  const buttons = names.map((name) => make("button", { textContent: name, onclick: () => select(name) }));
  const select = (name) => {
    buttons.forEach((b) => b.setAttribute("aria-pressed", String(b.textContent === name)));
    choose(name);
  };
  box.append(...buttons);
  select(first);
  return select;
}

/** Bytes of the base64 text in a script element, which is emptied. */
function takeBytes(id) {
  const element = $(id);
  const text = element.textContent;
  element.textContent = "";
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

async function gunzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/** Drags and touches on an element as frames: `pick(frame)` while a pointer is down. */
function scrubOn(element, frameAt) {
  let down = false;
  element.addEventListener("pointerdown", (event) => {
    if (event.button > 0) return;
    down = true;
    element.setPointerCapture(event.pointerId);
    setPlaying(false);
    setFrame(frameAt(event));
  });
  element.addEventListener("pointermove", (event) => down && setFrame(frameAt(event)));
  for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, () => (down = false));
}

/** The canvas in device pixels of its size on the page. */
function fitCanvas(canvas) {
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((n) => Math.max(1, Math.round(n * scale)));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  return canvas.getContext("2d");
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => tell("theme"));
let resizing = 0;
new ResizeObserver(() => {
  cancelAnimationFrame(resizing);
  resizing = requestAnimationFrame(() => tell("size"));
}).observe(document.body);
