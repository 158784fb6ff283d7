// The rasteriser's yardstick: a plain single-threaded z-buffer with the same inputs, outputs, fill rule and tie rule as
// vht_jax.render.raster.rasterize. Built by benchmarks/render.py with g++ -O3 -march=native; the package itself does not use it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

namespace {

struct Bounds {
  int x0, x1, y0, y1;
};

Bounds pixel_bounds(const float* a, const float* b, const float* c, int height, int width) {
  return {std::max(0, static_cast<int>(std::ceil(std::min({a[0], b[0], c[0]}) - 0.5f))),
          std::min(width - 1, static_cast<int>(std::floor(std::max({a[0], b[0], c[0]}) - 0.5f))),
          std::max(0, static_cast<int>(std::ceil(std::min({a[1], b[1], c[1]}) - 0.5f))),
          std::min(height - 1, static_cast<int>(std::floor(std::max({a[1], b[1], c[1]}) - 0.5f)))};
}

float signed_area(const float* a, const float* b, const float* c) {
  return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
}

}  // namespace

// screen (V, 3) x px, y px, z m; faces (F, 3); front faces have negative area.
// Writes pix_to_face and the 1 / z buffer, both (height, width).
extern "C" void visible_faces(const float* screen, const int32_t* faces, int n_faces, int height, int width,
                              int32_t* pix_to_face, float* inv_z) {
  std::fill(pix_to_face, pix_to_face + height * width, -1);
  std::fill(inv_z, inv_z + height * width, 0.0f);
  for (int i = 0; i < n_faces; i++) {
    const float* v[3] = {screen + 3 * faces[3 * i], screen + 3 * faces[3 * i + 1], screen + 3 * faces[3 * i + 2]};
    const float area = signed_area(v[0], v[1], v[2]);
    if (!(area < 0) || std::min({v[0][2], v[1][2], v[2][2]}) <= 1e-6f) continue;
    const Bounds box = pixel_bounds(v[0], v[1], v[2], height, width);
    if (box.x1 < box.x0 || box.y1 < box.y0) continue;

    float ax[3], ay[3], dx[3], dy[3];
    for (int k = 0; k < 3; k++) {
      const float *p = v[(k + 1) % 3], *q = v[(k + 2) % 3];
      const bool swap = q[0] < p[0] || (q[0] == p[0] && q[1] < p[1]);
      if (swap) std::swap(p, q);
      const float sign = swap ? 1.0f : -1.0f;
      ax[k] = p[0], ay[k] = p[1], dx[k] = sign * (q[0] - p[0]), dy[k] = sign * (q[1] - p[1]);
    }
    const float z0 = 1 / v[0][2], d1 = 1 / v[1][2] - z0, d2 = 1 / v[2][2] - z0, inv_area = 1 / area;
    const float gx = (d1 * (v[2][1] - v[0][1]) - d2 * (v[1][1] - v[0][1])) * inv_area;
    const float gy = (d2 * (v[1][0] - v[0][0]) - d1 * (v[2][0] - v[0][0])) * inv_area;

    for (int y = box.y0; y <= box.y1; y++) {
      const float py = y + 0.5f;
      float* depth = inv_z + y * width;
      int32_t* seen = pix_to_face + y * width;
      for (int x = box.x0; x <= box.x1; x++) {
        const float px = x + 0.5f;
        const float e0 = dx[0] * (py - ay[0]) - dy[0] * (px - ax[0]);
        const float e1 = dx[1] * (py - ay[1]) - dy[1] * (px - ax[1]);
        const float e2 = dx[2] * (py - ay[2]) - dy[2] * (px - ax[2]);
        const float z = z0 + gx * (px - v[0][0]) + gy * (py - v[0][1]);
        const bool nearer = (e0 >= 0) & (e1 >= 0) & (e2 >= 0) & (z > depth[x]);
        depth[x] = nearer ? z : depth[x];
        seen[x] = nearer ? i : seen[x];
      }
    }
  }
}

// The same outputs as rasterize: also bary_coords (height, width, 3) and zbuf, -1 in the background.
extern "C" void rasterize(const float* screen, const int32_t* faces, int n_faces, int height, int width,
                          int32_t* pix_to_face, float* zbuf, float* bary) {
  visible_faces(screen, faces, n_faces, height, width, pix_to_face, zbuf);
  for (int y = 0; y < height; y++) {
    for (int x = 0; x < width; x++) {
      const int pixel = y * width + x, face = pix_to_face[pixel];
      float* w = bary + 3 * pixel;
      if (face < 0) {
        zbuf[pixel] = w[0] = w[1] = w[2] = -1.0f;
        continue;
      }
      const float* v[3] = {screen + 3 * faces[3 * face], screen + 3 * faces[3 * face + 1],
                           screen + 3 * faces[3 * face + 2]};
      const float point[2] = {x + 0.5f, y + 0.5f}, z = 1 / zbuf[pixel];
      const float scale = z / signed_area(v[0], v[1], v[2]);
      w[0] = signed_area(v[1], v[2], point) * scale / v[0][2];
      w[1] = signed_area(v[2], v[0], point) * scale / v[1][2];
      w[2] = 1 - w[0] - w[1];
      zbuf[pixel] = z;
    }
  }
}
