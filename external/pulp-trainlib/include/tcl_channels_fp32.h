/* Layers that only move channels: joining and slicing tensors, and the channel shuffle. CHW. */
#ifndef TCL_CHANNELS_FP32_H
#define TCL_CHANNELS_FP32_H

struct blob; /* not included: upstream's headers have no guards against a second inclusion */

/* input is one of the tensors that are joined, of any shape; output holds it from element `first` on. */
struct tcl_join_args {
    struct blob *input;
    struct blob *output;
    int first;
};

/* The input's part of output.data = input.data. The rest of the output is left as it is: each input has a
   call of its own. Forks. */
void tcl_join_fp32_fw_cl(void *tcl_join_args);

/* input.diff = its part of output.diff. Forks. */
void tcl_join_fp32_bw_cl(void *tcl_join_args);

/* output is the part of input from element `first` on. */
struct tcl_slice_args {
    struct blob *input;
    struct blob *output;
    int first;
};

/* output.data = its part of input.data. Forks. */
void tcl_slice_fp32_fw_cl(void *tcl_slice_args);

/* input.diff = output.diff in the output's part, and 0 elsewhere. Forks. */
void tcl_slice_fp32_bw_cl(void *tcl_slice_args);

/* input and output have the same shape (C, H, W); groups divides C. */
struct tcl_shuffle_args {
    struct blob *input;
    struct blob *output;
    int groups;
};

/* output.data: with C = groups * n, channel j * groups + i is the input's channel i * n + j. Forks. */
void tcl_shuffle_fp32_fw_cl(void *tcl_shuffle_args);

/* input.diff: output.diff in the input's order. Forks. */
void tcl_shuffle_fp32_bw_cl(void *tcl_shuffle_args);

#endif
