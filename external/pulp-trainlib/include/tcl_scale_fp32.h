/* Product with a factor for each channel, as squeeze and excitation scales an image. */
#ifndef TCL_SCALE_FP32_H
#define TCL_SCALE_FP32_H

struct blob; /* not included: upstream's headers have no guards against a second inclusion */

/* input and output (C, H, W), factor (C), C >= 1. A factor of input's own shape makes it the product element
   by element. input and output may share their diff, where factor.diff is made before input.diff. */
struct tcl_scale_args {
    struct blob *input;
    struct blob *factor;
    struct blob *output;
};

/* All are bodies: every core calls them. */

/* output.data = input.data * factor.data of its channel. */
void tcl_scale_fp32_fw_cl(void *tcl_scale_args);

/* input.diff = output.diff * factor.data of its channel. */
void tcl_scale_fp32_bw_input_grads_cl(void *tcl_scale_args);

/* factor.diff = sum of output.diff * input.data over the channel. */
void tcl_scale_fp32_bw_factor_grads_cl(void *tcl_scale_args);

/* The sum of x[i] * y[i]. Runs of 64 are summed apart, which keeps the rounding error of large planes small.
 */
static inline float tcl_sum_of_products(float const *x, float const *y, int num)
{
    float sum = 0.0f;
    for (int i = 0; i < num;) {
        int const stop = num - i < 64 ? num : i + 64;
        float run = 0.0f;
        for (; i < stop; i++)
            run += x[i] * y[i];
        sum += run;
    }
    return sum;
}

#endif
