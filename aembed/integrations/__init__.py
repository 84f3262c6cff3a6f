"""aembed in the engines and frameworks that people have: one module for each, named like it, which alone imports it."""
