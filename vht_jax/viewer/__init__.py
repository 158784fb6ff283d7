"""`vht-view`: results in the browser, to look at, compare and edit (needs viser, extra `[viewer]`).

`source` opens a result with its head and images; `session` is the editor: poses and identity with undo, without any
window; `controls` are its sliders and `light` handles on the light for people; `surface` computes what is drawn; `glb`
packs coloured meshes for the browser. `scene` (the 3D nodes), `panel` (the widgets), `viewer` (what is shown now) and
`cli` work with viser.
"""
