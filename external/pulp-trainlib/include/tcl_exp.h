/* The exponential in float arithmetic alone: libm's computes in double, which a chip with single-precision
   FPUs does in software, at thousands of cycles a call. */
#ifndef TCL_EXP_H
#define TCL_EXP_H

#include <stdint.h>

#define TCL_LOG2_E 1.44269504f
#define TCL_LN2_HIGH 0.693359375f /* few bits: its product with an exponent is exact */
#define TCL_LN2_LOW -2.12194440e-4f

union tcl_bits {
    float value;
    uint32_t word;
};

static inline float tcl_power_of_two(int exponent)
{
    return (union tcl_bits){.word = (uint32_t)(exponent + 127) << 23}.value;
}

/* exp(x) for x <= 0, within 3e-7 of the value, relatively: the series to x^7 between -ln(2)/2 and ln(2)/2,
   times a power of two. */
static inline float tcl_exp_of_negative(float x)
{
    if (x < -104.0f) /* below half of the least float */
        return 0.0f;
    if (x != x)
        return x;
    int const k = (int)(x * TCL_LOG2_E - 0.5f);
    float const r = (x - (float)k * TCL_LN2_HIGH) - (float)k * TCL_LN2_LOW;
    float const high = 1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720 + r * (1.0f / 5040)));
    float const series = 1.0f + (r + r * r * (0.5f + r * (1.0f / 6 + r * high)));
    /* In two factors: the result may be below the least normal number, which has exponent -126. */
    return series * tcl_power_of_two(k / 2) * tcl_power_of_two(k - k / 2);
}

#endif
