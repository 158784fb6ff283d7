"""The mathematics of fitting: residuals, normal equations, solvers and their derivatives. Pure functions."""
