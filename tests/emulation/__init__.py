"""The row kernels as NVIDIA's compiler back end wrote them, executed without a GPU.

Kernels are compiled for sm_80 with the launches of :mod:`lossgen.runtime.launch`; their PTX runs
in numpy, all lanes of a launch side by side.  ``python -m tests.emulation`` runs every case
(``make emulate``); the tests run some of them.

  ptx           text → statements
  instructions  statements → functions of a machine
  memory        tensors and shared memory: bounds, alignment, conflicts
  machine       lanes, registers, divergence, barriers
  driver        what Triton takes for a GPU
  cases         calls, and what the torch backend says in float64
"""
