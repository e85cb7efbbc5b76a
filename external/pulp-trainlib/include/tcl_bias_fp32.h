/* The bias of depthwise and pointwise convolutions, for which PULP-TrainLib has no field. */
#ifndef TCL_BIAS_FP32_H
#define TCL_BIAS_FP32_H

struct blob; /* not included: upstream's headers have no guards against a second inclusion */

/* bias (C), output (C, H, W). */
struct tcl_bias_args {
    struct blob *bias;
    struct blob *output;
};

/* output.data += bias.data, by channel, in place. Forks. */
void tcl_bias_fp32_fw_cl(void *tcl_bias_args);

/* bias.diff = sum of output.diff over H and W. Forks. */
void tcl_bias_fp32_bw_param_grads_cl(void *tcl_bias_args);

#endif
