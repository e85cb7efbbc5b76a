/* Padding of planes with a constant, CHW. */
#ifndef TCL_PAD_FP32_H
#define TCL_PAD_FP32_H

struct blob; /* not included: upstream's headers have no guards against a second inclusion */

/* input (C, H, W), output (C, H + Upad + Dpad, W + Lpad + Rpad); no padding is negative. */
struct tcl_pad_args {
    struct blob *input;
    struct blob *output;
    int Lpad;
    int Rpad;
    int Upad;
    int Dpad;
    float value;
};

/* output.data = input.data in the middle, and value around it. Called on every core. */
void tcl_pad_fp32_fw_cl(void *tcl_pad_args);

/* input.diff = the middle of output.diff. Called on every core. */
void tcl_pad_fp32_bw_cl(void *tcl_pad_args);

#endif
