/* Sum of two tensors: residual connections, and gradients that arrive from several layers. */
#ifndef TCL_ADD_FP32_H
#define TCL_ADD_FP32_H

struct blob; /* not included: upstream's headers have no guards against a second inclusion */

/* first, second and output have the same number of elements; any of them may be the same blob. */
struct tcl_add_args {
    struct blob *first;
    struct blob *second;
    struct blob *output;
};

/* output.data = first.data + second.data. Its gradient needs no kernel: both inputs get the output's. Forks.
 */
void tcl_add_fp32_cl(void *tcl_add_args);

#endif
