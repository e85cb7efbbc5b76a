/* ReLU6: ReLU that stops at 6. */
#ifndef TCL_RELU6_FP32_H
#define TCL_RELU6_FP32_H

struct blob; /* not included: upstream's headers have no guards against a second inclusion */

/* input and output have the same shape and may be the same blob: both directions work in place. */
struct tcl_relu6_args {
    struct blob *input;
    struct blob *output;
};

/* output.data = min(max(input.data, 0), 6). Forks. */
void tcl_relu6_fp32_fw_cl(void *tcl_relu6_args);

/* input.diff = output.diff where 0 < input.data < 6, else 0. Before or after the forward pass in place gives
   the same. Forks. */
void tcl_relu6_fp32_bw_cl(void *tcl_relu6_args);

#endif
