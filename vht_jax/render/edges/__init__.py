"""Antialiased silhouettes: where the visible surface ends, and how that moves.

A hard rasteriser samples each pixel at its centre, so nothing it returns changes when a silhouette moves by less than
a pixel. Here the silhouette edges of the mesh are intersected with the pixels they pass through, and each pixel gets
the colour that a box filter over its area would have given it.

*Value.* Over a pixel with centre c the image is piecewise constant, and I(x) - I(c) is the sum of the jumps across the
edges between c and x. The contribution of an edge segment a b to the pixel is therefore (jump) x (area of the part of
the pixel that a b hides from c): a signed area, exact for any number of segments in a pixel,

  shadow(a, b) = sector(a, b) - cross(a - c, b - c) / 2.

The sector of the pixel between two directions needs no trigonometry: its area is an eighth of the length of the square
perimeter between them, as all sides are equally far from the centre (`_perimeter`).

*Gradient.* The derivative of a box-filtered image is the flux of the jump through the moving edges (Reynolds'
transport theorem; Li et al. 2018 sample the same integral): dI = - integral over a b of (I_in - I_out) cross(dx, ds).
It is linear in the end points and needs no derivative of the shadow's formula. The two agree wherever the visible
silhouette is closed, and the flux stays bounded where it ends behind something nearer.

*Visibility.* An edge is a silhouette if the drawn faces at it lie on one side of it. The colours inside and outside are
taken from the hard image, at the pixels on both sides of it; it is hidden if the outer one shows something nearer.
Where several silhouettes pass between the same two pixels only the outermost counts, which is decided on a few scan
lines per pixel, as all of them would otherwise be credited with the same jump.

Edges are taken from the mesh and not from the triangles seen at the pixels (Laine et al. 2020): near a silhouette
triangles are foreshortened to slivers, and the one at the edge is seen by fewer than half of the pixels beside it.
"""

from vht_jax.render.edges.antialias import antialias
from vht_jax.render.edges.table import EdgeTable, edge_table

__all__ = ["EdgeTable", "antialias", "edge_table"]
