/* Average pooling with padding, CHW. */
#ifndef TCL_AVGPOOL_FP32_H
#define TCL_AVGPOOL_FP32_H

struct blob; /* not included: upstream's headers have no guards against a second inclusion */

/* input (C, H, W), output (C, (H + Upad + Dpad - Hker) / Hstride + 1, (W + Lpad + Rpad - Wker) / Wstride +
   1). Padding is smaller than the window, so that every window holds an element. An average is over the
   window's elements of the input. With count_padding it is over those of the padding too, which are 0, but
   not over what Dpad has more than Upad, or Rpad more than Lpad: there windows reach beyond, as with torch's
   ceil_mode. */
struct tcl_avgpool_args {
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
    int count_padding;
};

/* output.data from input.data. A body: every core calls it. */
void tcl_avgpool_fp32_fw_cl(void *tcl_avgpool_args);

/* input.diff from output.diff. A body: every core calls it. */
void tcl_avgpool_fp32_bw_cl(void *tcl_avgpool_args);

#endif
