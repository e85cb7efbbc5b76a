/* Casts between types of elements: the same values, as another type holds them. */
#ifndef TCL_CAST_H
#define TCL_CAST_H

#include <stdint.h>

/* values (dim) and codes (dim), which share no memory; scale (1): a code c stands for scale * c. */
struct tcl_cast_args {
    float *values;
    int8_t *codes;
    float *scale;
    int dim;
};

/* scale = max|values| / 127, and each code = value / scale rounded to the nearest, halves to even; 0 where
   the scale is. Forks. */
void tcl_cast_fp32_int8_cl(void *tcl_cast_args);

/* values = scale * codes. Forks. */
void tcl_cast_int8_fp32_cl(void *tcl_cast_args);

#endif
