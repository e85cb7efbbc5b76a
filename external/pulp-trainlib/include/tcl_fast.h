/* The fast kernels, which work on tiles in L1. */
#ifndef TCL_FAST_H
#define TCL_FAST_H

#include "tcl_fast_conv_fp32.h"
#include "tcl_fast_dw_fp32.h"
#include "tcl_fast_map_fp32.h"
#include "tcl_fast_pw_fp32.h"

#endif
