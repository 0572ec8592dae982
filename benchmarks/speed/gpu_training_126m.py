"""Row: training steps of the paper's 126m on a GPU beside torch.compile."""

from benchmarks.speed import gpu
from benchmarks.speed.sides import main

ROW = gpu.row("126m")

if __name__ == "__main__":
    main(ROW)
