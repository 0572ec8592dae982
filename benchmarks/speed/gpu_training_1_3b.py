"""Row: training steps of the paper's 1.3b on a GPU beside torch.compile."""

from benchmarks.speed import gpu
from benchmarks.speed.sides import main

ROW = gpu.row("1.3b")

if __name__ == "__main__":
    main(ROW)
