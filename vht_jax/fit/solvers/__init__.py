"""How a sum of squares is made least: the solvers, their derivatives, and how sure what they find is."""
