"""Exports in programs that people open them with: three.js in a real browser, Blender. They show our silhouette."""

import base64
import importlib.util
import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import browser
import numpy as np
import pytest
from PIL import Image
from silhouettes import FRAME, beyond_a_pixel, cut, overlay, own_silhouette, whole_padding

from vht_jax.app.report.page import WEB
from vht_jax.results.export import export

pytestmark = pytest.mark.slow

# three.js as the report bundles it: the file's own camera, materials, morphs and skin; tracks read at a time.
PAGE = """<!doctype html><canvas id="c"></canvas><script>@@three</script><script>
window.show = async (time, width, height) => {
  const bytes = Uint8Array.from(atob("@@glb"), (c) => c.charCodeAt(0));
  const file = await new THREE.GLTFLoader().parseAsync(bytes.buffer, "");
  const canvas = document.getElementById("c");
  const renderer = new THREE.WebGLRenderer({ canvas, antialias: false, preserveDrawingBuffer: true });
  renderer.setSize(width, height, false);
  renderer.setClearColor(0xff00ff);
  const scene = new THREE.Scene();
  scene.add(file.scene);
  for (const track of file.animations[0].tracks) {
    const [name, property] = track.name.split(".");
    const node = file.scene.getObjectByName(name);
    const value = track.createInterpolant(new Float32Array(track.getValueSize())).evaluate(time);
    if (property === "morphTargetInfluences") node.morphTargetInfluences = Array.from(value);
    else node[property].fromArray(value);
  }
  file.scene.traverse((node) => { node.frustumCulled = false; });
  scene.updateMatrixWorld(true);
  renderer.render(scene, file.cameras[0]);
  return canvas.toDataURL("image/png");
};
</script>"""


@pytest.fixture(scope="module")
def scene(clip_with_images):
  return whole_padding(clip_with_images)


@pytest.fixture(scope="module")
def file(scene, tmp_path_factory):
  """The .glb, and the extras of its camera."""
  (path,) = export(scene, "glb", tmp_path_factory.mktemp("glb"))
  data = path.read_bytes()
  content = json.loads(data[20 : 20 + struct.unpack_from("<I", data, 12)[0]])
  return path, content["cameras"][0]["extras"]


def check(scene, theirs, name, tmp_path):
  folder = Path(os.environ.get("VHT_TEST_PICTURES", tmp_path))
  overlay(scene, theirs, folder / f"{name}.png")
  ours = own_silhouette(scene)
  assert ours.sum() > 10000
  assert beyond_a_pixel(ours, theirs) == 0
  assert beyond_a_pixel(ours, np.roll(theirs, 3, axis=1)) > 100  # the comparison can fail


def test_three_js_in_a_browser(scene, file, tmp_path):
  pytest.importorskip("websockets")
  if browser.find() is None:
    pytest.skip("no chromium here")
  path, extras = file
  three = (WEB / "vendor" / "three.min.js").read_text(encoding="utf-8")
  page = PAGE.replace("@@glb", base64.b64encode(path.read_bytes()).decode()).replace("@@three", three)
  (tmp_path / "page.html").write_text(page, encoding="utf-8")
  (tmp_path / "browser").mkdir()
  shown = browser.Browser(tmp_path / "browser")
  try:
    shown.open((tmp_path / "page.html").as_uri())
    shown.wait_for("typeof window.show === 'function'")
    width, height = (round(v) for v in extras["padded_size"])
    address = shown.evaluate(f"window.show({scene.times[FRAME]}, {width}, {height})")
    assert not shown.errors
  finally:
    shown.close()
  picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB"))
  theirs = cut(~(picture == [255, 0, 255]).all(-1), extras)
  check(scene, theirs, "glb_three", tmp_path)


# Blender, headless on the CPU; cameras of files without one are those of camera.json.
BLENDER = """
import json, math, pathlib, sys
import bpy
path, out, seconds, frame, rate, width, height = sys.argv[1:]
bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene
scene.render.fps = round(float(rate))
width, height = round(float(width)), round(float(height))
at = float(seconds) * float(rate)
if path.endswith(".glb"):
  bpy.ops.import_scene.gltf(filepath=path)
elif path.endswith(".usda"):
  bpy.ops.wm.usd_import(filepath=path)
else:
  bpy.ops.wm.obj_import(filepath=path.replace(".pc2", ".obj"))
  cache = bpy.context.object.modifiers.new("cache", "MESH_CACHE")
  cache.cache_format, cache.filepath = "PC2", path
  at = float(frame)  # a sample per frame
  lens = json.loads(next(pathlib.Path(path).parent.glob("*_pc2_camera.json")).read_text())["frames"][int(frame)]
  camera = bpy.data.cameras.new("camera")
  camera.sensor_fit, camera.sensor_width, camera.lens = "HORIZONTAL", 36, 36 * lens["fl_x"] / width
  camera.shift_x, camera.shift_y = 0.5 - lens["cx"] / width, (lens["cy"] - height / 2) / width
  scene.collection.objects.link(bpy.data.objects.new("camera", camera))
  scene.objects["camera"].rotation_euler = (math.pi / 2, 0, 0)  # what the importer does to y up
scene.camera = next(o for o in scene.objects if o.type == "CAMERA")
scene.frame_set(int(at), subframe=at % 1)
render = scene.render
render.engine, render.film_transparent = "CYCLES", True
render.resolution_x, render.resolution_y, render.resolution_percentage = width, height, 100
scene.cycles.device, scene.cycles.samples, scene.cycles.use_denoising = "CPU", 1, False
scene.cycles.pixel_filter_type, scene.cycles.filter_width = "BLACKMAN_HARRIS", 0.01
render.image_settings.file_format, render.image_settings.color_mode = "PNG", "RGBA"
render.filepath = out
bpy.ops.render.render(write_still=True)
"""


@pytest.mark.parametrize("kind", ["glb", "usda", "pc2"])
def test_blender(kind, scene, file, tmp_path):
  """With bpy in this Python, or in that of $BPY_PYTHON: the package is large and wants a Python of its own."""
  python = os.environ.get("BPY_PYTHON") or (sys.executable if importlib.util.find_spec("bpy") else None)
  if python is None:
    pytest.skip("no Blender: bpy is not installed, and $BPY_PYTHON names no Python that has it")
  path, extras = file
  if kind != "glb":
    export(scene, kind, tmp_path)
    path = tmp_path / f"clip.{kind}"
  out = tmp_path / "blender.png"
  size = extras["padded_size"] if kind == "glb" else scene.size[::-1]
  arguments = [path, out, scene.times[FRAME], FRAME, scene.fps, *size]
  subprocess.run([python, "-c", BLENDER, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL, timeout=600)
  theirs = np.asarray(Image.open(out).convert("RGBA"))[..., 3] > 127
  check(scene, cut(theirs, extras) if kind == "glb" else theirs, f"{kind}_blender", tmp_path)
