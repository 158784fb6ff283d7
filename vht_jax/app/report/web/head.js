// The tracked head in 3D: the .glb inside this file, under the light of the video, with three.js.

const head3d = { ready: false, view: "follow" };
const NEAR_RADIUS = 0.165; // m around the head's middle that the close view shows
const VIEWS = { "Follow": "follow", "Face on": "face", "As filmed": "filmed" };
const LOOKS = { Skin: 0, Clay: 1, Mesh: 2 };

const VERTEX = `
  #include <common>
  #include <skinning_pars_vertex>
  varying vec2 vTexture;
  varying vec3 vStage;
  varying vec3 vEye;
  attribute float eyeball;
  varying float vEyeball;
  ${MOUTH_VERTEX_HEAD}
  void main() {
    vTexture = uv;
    vEyeball = eyeball;
    #include <beginnormal_vertex>
    #include <skinbase_vertex>
    #include <skinnormal_vertex>
    vStage = objectNormal;               // in the filming camera's frame: bones and mesh share one parent
    vEye = normalMatrix * objectNormal;  // in the frame of the camera that looks now
    #include <begin_vertex>
    #include <skinning_vertex>
    ${MOUTH_VERTEX}
    #include <project_vertex>
  }`;
// The tracker's own shading (VHT's): spherical harmonics of degree 2, (colour + 1) shading - 1, in the image's values.
// The texture is the head evenly lit, and the light relative to that (vht_jax/results/appearance.py).
const FRAGMENT = `
  uniform sampler2D map;
  uniform vec3 light[9];
  uniform mat3 lightFrame;
  uniform int look;
  varying vec2 vTexture;
  varying vec3 vStage;
  varying vec3 vEye;
  varying float vLight;
  varying float vEyeball;
  void main() {
    vec3 staged = normalize(vStage);
    // Nothing says what light the side gets that the camera does not see: it is shown as the near one mirrored.
    vec3 n = vec3(staged.xy, abs(staged.z)) * lightFrame;  // row vector: the transpose, camera to world
    vec3 shading = light[0] + light[1] * n.x + light[2] * n.y + light[3] * n.z + light[4] * (n.x * n.y)
      + light[5] * (n.x * n.z) + light[6] * (n.y * n.z) + light[7] * (n.x * n.x - n.y * n.y) + light[8] * (3.0 * n.z * n.z - 1.0);
    vec3 even = texture2D(map, vTexture).rgb;
    vec3 skin = mix((even + 1.0) * shading - 1.0, even * shading, vEyeball);
    float facing = abs(normalize(vEye).z);
    vec3 clay = vec3(0.80, 0.78, 0.75) * (0.22 + 0.78 * facing);
    vec3 color = look == 0 ? skin * vLight : look == 1 ? clay * vLight : vec3(0.55, 0.75, 0.95);
    gl_FragColor = vec4(clamp(color, 0.0, 1.0), 1.0);
  }`;

// Ramamoorthi and Hanrahan's factors of the nine functions, as vht_jax.render.shade has them.
function lightUniform() {
  const s = (x) => Math.sqrt(x / Math.PI);
  const first = ((2 * Math.PI) / 3) * s(3 / 4);
  const second = (Math.PI / 4) * 3 * s(5 / 12);
  const factors = [s(1 / 4), first, first, first, second, second, second, (Math.PI / 4) * 1.5 * s(5 / 12), (Math.PI / 4) * 0.5 * s(5 / 12)];
  return data.light.map((row, i) => new THREE.Vector3(...row.map((x) => (x ?? 0) * factors[i])));
}

async function startHead() {
  const message = $("head-message");
  try {
    const packed = takeBytes("head-data");
    if (!packed.length) throw new Error("This result has no 3D view.");
    if (!("DecompressionStream" in window)) throw new Error("The 3D view needs a browser from 2023 or later.");
    const buffer = await gunzip(packed);
    $("save-head").onclick = () => saveHead(buffer);
    const renderer = makeRenderer();
    const file = await new THREE.GLTFLoader().parseAsync(buffer, "");
    setUpHead(renderer, file);
    message.remove();
  } catch (error) {
    message.textContent = error.message;
  }
}

/** Whether to smooth edges: fine pixels need it less, and without a graphics card it takes half of the time. */
function smoothEdges() {
  if ((window.devicePixelRatio || 1) >= 2) return false;
  const probe = document.createElement("canvas").getContext("webgl2");
  const info = probe?.getExtension("WEBGL_debug_renderer_info");
  const name = info ? probe.getParameter(info.UNMASKED_RENDERER_WEBGL) : "";
  probe?.getExtension("WEBGL_lose_context")?.loseContext();
  return !/swiftshader|llvmpipe|software/i.test(name);
}

function makeRenderer() {
  const renderer = (() => {
    try {
      return new THREE.WebGLRenderer({ canvas: $("head"), antialias: smoothEdges() });
    } catch {
      throw new Error("The 3D view needs WebGL 2, which this browser does not offer here.");
    }
  })();
  const background = () => renderer.setClearColor(css("--stage"));
  background();
  on("theme", () => { background(); drawHead(); });
  return renderer;
}

function setUpHead(renderer, file) {
  const scene = new THREE.Scene();
  const stage = file.scene;
  scene.add(stage);
  stage.matrixAutoUpdate = false;
  let mesh = null;
  stage.traverse((node) => { if (node.isSkinnedMesh) mesh = node; });
  const map = mesh.material.map;
  map.colorSpace = THREE.NoColorSpace;
  map.needsUpdate = true;
  map.anisotropy = 4;
  const mouth = makeMouth(mesh);
  mesh.geometry.setAttribute("eyeball", markVertices(mesh.geometry, data.eyeballs));
  const uniforms = {
    ...mouth.uniforms, map: { value: map }, light: { value: lightUniform() }, look: { value: 0 },
    lightFrame: { value: new THREE.Matrix3().set(...data.lightFrame.flat()) },
  };
  mesh.material = new THREE.ShaderMaterial({ uniforms, vertexShader: VERTEX, fragmentShader: FRAGMENT });
  mesh.frustumCulled = false;
  const morph = takeMorphs(mesh);
  const tracks = file.animations[0].tracks.map((track) => {
    const [name, property] = track.name.split(".");
    return { node: stage.getObjectByName(name), property, values: track.values, size: track.getValueSize() };
  });
  const [root, neck] = ["root", "neck"].map((name) => stage.getObjectByName(name));
  const camera = new THREE.PerspectiveCamera(20, 1, 0.02, 30);
  const controls = new THREE.OrbitControls(camera, renderer.domElement);
  Object.assign(controls, { enablePan: false, enableDamping: false, rotateSpeed: 0.8, minDistance: 0.15, maxDistance: 6 });
  Object.assign(head3d, {
    ready: true, renderer, scene, stage, mesh, morph, mouth, tracks, root, neck, camera, controls, uniforms,
    toOrigin: new THREE.Matrix4().makeTranslation(...data.neckRest), pose: new THREE.Matrix4(),
  });
  controls.addEventListener("start", () => { if (head3d.view === "filmed") head3d.select("Follow"); });
  controls.addEventListener("change", drawHead);
  renderer.domElement.addEventListener("dblclick", () => chooseView(head3d.view));
  poseHead();
  head3d.select = choice($("views"), Object.keys(VIEWS), "Follow", (name) => chooseView(VIEWS[name]));
  choice($("looks"), Object.keys(LOOKS), "Skin", (name) => {
    uniforms.look.value = LOOKS[name];
    mesh.material.wireframe = name === "Mesh";
    drawHead();
  });
  // The picture first: without a graphics card the head takes many times longer.
  on("frame", () => { if (!player.busy) showHead(); });
  on("picture", showHead);
  on("size", drawHead);
  new IntersectionObserver(([entry]) => { // what is scrolled away is not drawn
    head3d.visible = entry.isIntersecting;
    drawHead();
  }).observe(renderer.domElement);
}

/**
 * Takes the morph targets out of a mesh; returns a function that shapes it by their weights.
 *
 * A shader looks at every target in every vertex. Few vertices move and few targets count, so the processor does it in
 * a millisecond or two, where drawing with some 50 targets takes 100 without a graphics card.
 */
function takeMorphs(mesh) {
  const geometry = mesh.geometry;
  const names = ["position", "normal"];
  const read = (a) => Float32Array.from({ length: 3 * a.count }, (_, i) => a.getComponent((i / 3) | 0, i % 3));
  const parts = names.map((name) => {
    const base = read(geometry.attributes[name]);
    const targets = (geometry.morphAttributes[name] ?? []).map((attribute) => {
      const all = read(attribute);
      const at = [];
      for (let i = 0; i < all.length; i++) if (all[i] !== 0) at.push(i);
      return { at: Uint32Array.from(at), by: Float32Array.from(at, (i) => all[i]) };
    });
    const attribute = new THREE.BufferAttribute(base.slice(), 3);
    geometry.setAttribute(name, attribute);
    return { base, targets, attribute };
  });
  geometry.morphAttributes = {};
  mesh.morphTargetInfluences = undefined;
  return (weights) => {
    for (const { base, targets, attribute } of parts) {
      const values = attribute.array;
      values.set(base);
      targets.forEach(({ at, by }, k) => {
        const weight = weights[k];
        if (weight !== 0) for (let i = 0; i < at.length; i++) values[at[i]] += weight * by[i];
      });
      attribute.needsUpdate = true;
    }
  };
}

/** Sets every joint and weight to its key of the current frame. */
function poseHead() {
  const { tracks, root, neck, pose, stage, view, toOrigin } = head3d;
  for (const { node, property, values, size } of tracks) {
    const at = state.frame * size;
    if (property === "morphTargetInfluences") head3d.morph(values.subarray(at, at + size));
    else node[property].fromArray(values, at);
  }
  for (const joint of [root, neck]) joint.updateMatrix();
  pose.multiplyMatrices(root.matrix, neck.matrix).multiply(toOrigin);
  // Follow: the head's middle stays where it is. Face on: its direction as well. As filmed: the camera's view.
  if (view === "filmed") stage.matrix.identity();
  else if (view === "face") stage.matrix.copy(pose).invert();
  else {
    const [x, y, z] = pose.elements.slice(12, 15);
    stage.matrix.makeTranslation(-x, -y, -z);
  }
  stage.matrixWorldNeedsUpdate = true;
}

function chooseView(view) {
  const { camera, controls, pose } = head3d;
  head3d.view = view;
  poseHead();
  const middle = new THREE.Vector3().setFromMatrixPosition(pose);
  const distance = middle.length();
  camera.up.set(0, 1, 0);
  if (view === "filmed") {
    camera.position.set(0, 0, 0);
    controls.target.set(0, 0, middle.z);
  } else {
    // As far away as the filming camera: the same perspective, larger.
    if (view === "face") camera.position.set(0, 0, distance);
    else camera.position.copy(middle).negate();
    controls.target.set(0, 0, 0);
    camera.fov = (360 / Math.PI) * Math.atan(NEAR_RADIUS / distance);
  }
  camera.lookAt(controls.target);
  controls.update();
  drawHead();
}

function showHead() {
  poseHead();
  drawHead();
}

let drawing = 0;
function drawHead() {
  if (!head3d.ready || head3d.visible === false) return;
  cancelAnimationFrame(drawing);
  drawing = requestAnimationFrame(() => {
    const { renderer, scene, camera } = head3d;
    const box = renderer.domElement.parentElement;
    const [width, height] = [box.clientWidth, box.clientHeight];
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    if (head3d.width !== width || head3d.height !== height || head3d.ratio !== ratio) {
      Object.assign(head3d, { width, height, ratio });
      renderer.setPixelRatio(ratio);
      renderer.setSize(width, height, false);
    }
    aim(camera, width, height);
    scene.updateMatrixWorld(true); // bones, of which the mouth asks
    head3d.mouth.update();
    renderer.render(scene, camera);
  });
}

/** The lens: the filming camera's with its principal point, fitted into the window, or the close one. */
function aim(camera, width, height) {
  if (head3d.view !== "filmed") {
    const aspect = width / height;
    const half = Math.tan((camera.fov * Math.PI) / 360) / Math.min(aspect, 1);
    const [near, far] = [0.02, 30];
    const top = near * half;
    camera.projectionMatrix.makePerspective(-top * aspect, top * aspect, top, -top, near, far);
  } else {
    const [h, w] = data.size;
    const { focal, cx, cy } = data.camera;
    const shrink = Math.min(width / w, height / h); // of the image in the window, centred
    const [left, up] = [(width / shrink - w) / 2 + cx, (height / shrink - h) / 2 + cy];
    const near = 0.02;
    const unit = near / focal;
    camera.projectionMatrix.makePerspective(-left * unit, (width / shrink - left) * unit, up * unit, -(height / shrink - up) * unit, near, 30);
  }
  camera.projectionMatrixInverse.copy(camera.projectionMatrix).invert();
}

function saveHead(buffer) {
  const link = make("a", { href: URL.createObjectURL(new Blob([buffer], { type: "model/gltf-binary" })), download: `${data.title}.glb` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
