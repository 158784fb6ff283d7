// Light inside the mouth, as vht_jax/head/mouth.py has it: what is in there sees through the hole between the lips,
// which is taken as a disc of its area, and is drawn behind them.

const MOUTH_VERTEX_HEAD = `
  attribute float inside;
  uniform vec3 mouthCentre;
  uniform vec3 mouthNormal;
  uniform float mouthArea;
  varying float vLight;`;
// After skinning: `transformed` is in the filming camera's frame, and so is the hole.
const MOUTH_VERTEX = `
    float depth = -dot(transformed - mouthCentre, mouthNormal);
    float push = inside * max(${data.mouth.behind} - depth, 0.0);
    transformed -= push * mouthNormal;
    depth = max(depth + push, 0.0);
    vLight = 1.0 - inside * (1.0 - mouthArea / (mouthArea + PI * depth * depth));`;
const SOME = 8; // one in so many vertices inside tells where the inside is

/** 1 at the vertices that have these numbers in the head, 0 at others. */
function markVertices(geometry, numbers) {
  const chosen = new Set(numbers);
  const number = geometry.attributes._vertex;
  return new THREE.BufferAttribute(Float32Array.from({ length: number.count }, (_, i) => Number(chosen.has(number.getX(i)))), 1);
}

/** Uniforms, and a function that brings them to the head's present shape; marks the vertices inside the mouth. */
function makeMouth(mesh) {
  const uniforms = { mouthCentre: { value: new THREE.Vector3() }, mouthNormal: { value: new THREE.Vector3(0, 0, 1) }, mouthArea: { value: 1 } };
  const geometry = mesh.geometry;
  const number = geometry.attributes._vertex;
  const at = new Map(); // the head's number of a vertex -> one of its numbers here
  for (let i = 0; i < number.count; i++) at.set(number.getX(i), i);
  geometry.setAttribute("inside", markVertices(geometry, data.mouth.inside));
  const within = data.mouth.inside.filter((_, k) => k % SOME === 0).map((v) => at.get(v));
  const place = (i) => mesh.applyBoneTransform(i, new THREE.Vector3().fromBufferAttribute(geometry.attributes.position, i));
  const update = () => {
    if (!within.length) return;
    const lips = data.mouth.lips.map(([corners, bary]) =>
      corners.reduce((sum, v, k) => sum.addScaledVector(place(at.get(v)), bary[k]), new THREE.Vector3()));
    const mean = (points) => points.reduce((sum, p) => sum.add(p), new THREE.Vector3()).divideScalar(points.length);
    const centre = mean(lips);
    const around = lips.map((p) => p.clone().sub(centre));
    const hole = around.reduce((sum, p, k) => sum.add(new THREE.Vector3().crossVectors(p, around[(k + 1) % around.length])), new THREE.Vector3()).multiplyScalar(0.5);
    const behind = mean(within.map(place)).sub(centre);
    const area = hole.length();
    const normal = hole.multiplyScalar(hole.dot(behind) > 0 ? -1 : 1);
    // Closed lips have hardly any area: then the way from the inside to the lips is taken.
    const trust = 1 / (area + data.mouth.closed);
    normal.multiplyScalar(trust).addScaledVector(behind.normalize(), area * trust - 1).normalize();
    uniforms.mouthCentre.value.copy(centre);
    uniforms.mouthNormal.value.copy(normal);
    uniforms.mouthArea.value = Math.max(area, 1e-8);
  };
  return { uniforms, update };
}
