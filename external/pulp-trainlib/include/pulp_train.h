/* Everything of the PULP-TrainLib API that this library implements. */
#ifndef PULP_TRAIN_H
#define PULP_TRAIN_H

#include "pulp_act_fp32.h"
#include "pulp_conv2d_fp32.h"
#include "pulp_conv_dw_fp32.h"
#include "pulp_conv_pw_fp32.h"
#include "pulp_linear_fp32.h"
#include "pulp_losses_fp32.h"
#include "pulp_optimizers_fp32.h"
#include "pulp_pooling_fp32.h"
#include "pulp_train_utils_fp32.h"

#endif
