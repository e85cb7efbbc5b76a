/* Activations that upstream has not: sigmoid, SiLU, their piecewise linear kin, and leaky ReLU. */
#ifndef TCL_ACTIVATIONS_FP32_H
#define TCL_ACTIVATIONS_FP32_H

struct blob; /* not included: upstream's headers have no guards against a second inclusion */

/* input and output have the same shape. They may share their data, where a backward pass does not read
   input.data, and may share their diff. */
struct tcl_activation_args {
    struct blob *input;
    struct blob *output;
    float slope; /* of leaky ReLU, at least 0 */
};

/* All are bodies: every core calls them. `fw` sets output.data from input.data. `bw` sets input.diff to
   output.diff times the derivative, from output.data or from input.data, as said. */

/* 1 / (1 + exp(-x)), within 1e-6 of the value, relatively; from output.data. */
void tcl_sigmoid_fp32_fw_cl(void *tcl_activation_args);
void tcl_sigmoid_fp32_bw_cl(void *tcl_activation_args);

/* x sigmoid(x), also called Swish; from input.data. */
void tcl_silu_fp32_fw_cl(void *tcl_activation_args);
void tcl_silu_fp32_bw_cl(void *tcl_activation_args);

/* min(max(x + 3, 0), 6) / 6; its derivative is 1 / 6 where the output is above 0 and below 1, else 0; from
   output.data. */
void tcl_hardsigmoid_fp32_fw_cl(void *tcl_activation_args);
void tcl_hardsigmoid_fp32_bw_cl(void *tcl_activation_args);

/* x min(max(x + 3, 0), 6) / 6; its derivative is 0 up to -3, 1 from 3 on, and x / 3 + 1 / 2 between; from
   input.data. */
void tcl_hardswish_fp32_fw_cl(void *tcl_activation_args);
void tcl_hardswish_fp32_bw_cl(void *tcl_activation_args);

/* x where it is above 0, else slope x; from output.data, whose sign is that of the input. */
void tcl_leaky_relu_fp32_fw_cl(void *tcl_activation_args);
void tcl_leaky_relu_fp32_bw_cl(void *tcl_activation_args);

#endif
