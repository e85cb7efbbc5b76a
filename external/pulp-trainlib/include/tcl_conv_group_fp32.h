/* 2D convolution in groups of channels, CHW, any window, stride, padding and dilation. */
#ifndef TCL_CONV_GROUP_FP32_H
#define TCL_CONV_GROUP_FP32_H

struct blob; /* not included: upstream's headers have no guards against a second inclusion */

/* input (C_in, H, W), coeff (C_out, group_inputs, kh, kw), output (C_out, Ho, Wo). Output channel c sees the
   group_inputs input channels from (c / group_outputs) * group_inputs on. The taps of a window are dilation_h
   rows and dilation_w columns apart: Ho = (H + Upad + Dpad - (kh - 1) * dilation_h - 1) / stride_h + 1. */
struct tcl_conv_group_args {
    struct blob *input;
    struct blob *coeff;
    struct blob *output;
    int group_inputs;
    int group_outputs;
    int Lpad;
    int Rpad;
    int Upad;
    int Dpad;
    int stride_h;
    int stride_w;
    int dilation_h;
    int dilation_w;
};

/* output.data from input.data and coeff.data. Forks. */
void tcl_conv_group_fp32_fw_cl(void *tcl_conv_group_args);

/* coeff.diff from input.data and output.diff. Output and coeff may be the first channels of a larger layer.
   Forks. */
void tcl_conv_group_fp32_bw_param_grads_cl(void *tcl_conv_group_args);

/* input.diff from coeff.data and output.diff. Forks. */
void tcl_conv_group_fp32_bw_input_grads_cl(void *tcl_conv_group_args);

#endif
