// What the report (vht_jax/app/report/web) uses of three.js; build.sh makes vht_jax/app/report/web/vendor/three.min.js of it.
export {
  BufferAttribute, Matrix3, Matrix4, NoColorSpace, PerspectiveCamera, Scene, ShaderMaterial, Vector3, WebGLRenderer,
} from "three";
export { OrbitControls } from "three/examples/jsm/controls/OrbitControls.js";
export { GLTFLoader } from "three/examples/jsm/loaders/GLTFLoader.js";
