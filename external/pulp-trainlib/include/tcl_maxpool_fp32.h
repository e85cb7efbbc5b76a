/* Maximum pooling with padding, CHW. */
#ifndef TCL_MAXPOOL_FP32_H
#define TCL_MAXPOOL_FP32_H

struct blob; /* not included: upstream's headers have no guards against a second inclusion */

/* input (C, H, W), output (C, (H + Upad + Dpad - Hker) / Hstride + 1, (W + Lpad + Rpad - Wker) / Wstride +
   1). Padding is smaller than the window, so that every window holds an element; it never is the maximum. */
struct tcl_maxpool_args {
    struct blob *input;
    struct blob *output;
    int Hker;
    int Wker;
    int Hstride;
    int Wstride;
    int Lpad;
    int Rpad;
    int Upad;
    int Dpad;
};

/* output.data from input.data. Forks. */
void tcl_maxpool_fp32_fw_cl(void *tcl_maxpool_args);

/* input.diff from input.data and output.diff: the first maximum of each window, row by row, gets its
   gradient. Forks. */
void tcl_maxpool_fp32_bw_cl(void *tcl_maxpool_args);

#endif
