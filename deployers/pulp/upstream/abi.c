/* Does not compile if upstream's args structs are not those that our kernels read: both are called with the
 * same. */
#include <stddef.h>

/* Ours, under tags of their own. */
#define blob own_blob
#define act_args own_act_args
#define Conv2D_args own_Conv2D_args
#define DepthWise_Conv_args own_DepthWise_Conv_args
#define PointWise_Conv_args own_PointWise_Conv_args
#define Linear_args own_Linear_args
#define loss_args own_loss_args
#define optim_args own_optim_args
#define pool_args own_pool_args
#include "../trainlib/src/pulp_act_fp32.h"
#include "../trainlib/src/pulp_conv2d_fp32.h"
#include "../trainlib/src/pulp_conv_dw_fp32.h"
#include "../trainlib/src/pulp_conv_pw_fp32.h"
#include "../trainlib/src/pulp_linear_fp32.h"
#include "../trainlib/src/pulp_losses_fp32.h"
#include "../trainlib/src/pulp_optimizers_fp32.h"
#include "../trainlib/src/pulp_pooling_fp32.h"
#undef blob
#undef act_args
#undef Conv2D_args
#undef DepthWise_Conv_args
#undef PointWise_Conv_args
#undef Linear_args
#undef loss_args
#undef optim_args
#undef pool_args

#include "pulp_train.h"

/* An array of -1 elements is an error that names struct and field. */
#define SAME_SIZE(tag) extern char tag##_differs[sizeof(struct tag) == sizeof(struct own_##tag) ? 1 : -1]
#define SAME_FIELD(tag, field)                                                                               \
    extern char                                                                                              \
        tag##_##field##_differs[offsetof(struct tag, field) == offsetof(struct own_##tag, field) ? 1 : -1]

SAME_SIZE(blob);
SAME_FIELD(blob, data);
SAME_FIELD(blob, diff);
SAME_FIELD(blob, dim);
SAME_FIELD(blob, W);
SAME_FIELD(blob, H);
SAME_FIELD(blob, C);

SAME_SIZE(act_args);
SAME_FIELD(act_args, input);
SAME_FIELD(act_args, output);

SAME_SIZE(Conv2D_args);
SAME_FIELD(Conv2D_args, input);
SAME_FIELD(Conv2D_args, coeff);
SAME_FIELD(Conv2D_args, bias);
SAME_FIELD(Conv2D_args, output);
SAME_FIELD(Conv2D_args, Lpad);
SAME_FIELD(Conv2D_args, Rpad);
SAME_FIELD(Conv2D_args, Upad);
SAME_FIELD(Conv2D_args, Dpad);
SAME_FIELD(Conv2D_args, stride_h);
SAME_FIELD(Conv2D_args, stride_w);
SAME_FIELD(Conv2D_args, skip_wg_grad);
SAME_FIELD(Conv2D_args, skip_in_grad);
SAME_FIELD(Conv2D_args, HWC);
SAME_FIELD(Conv2D_args, USE_BIASES);
SAME_FIELD(Conv2D_args, USE_IM2COL);

SAME_SIZE(DepthWise_Conv_args);
SAME_FIELD(DepthWise_Conv_args, input);
SAME_FIELD(DepthWise_Conv_args, coeff);
SAME_FIELD(DepthWise_Conv_args, output);
SAME_FIELD(DepthWise_Conv_args, stride_h);
SAME_FIELD(DepthWise_Conv_args, stride_w);
SAME_FIELD(DepthWise_Conv_args, Lpad);
SAME_FIELD(DepthWise_Conv_args, Rpad);
SAME_FIELD(DepthWise_Conv_args, Upad);
SAME_FIELD(DepthWise_Conv_args, Dpad);
SAME_FIELD(DepthWise_Conv_args, skip_wg_grad);
SAME_FIELD(DepthWise_Conv_args, skip_in_grad);
SAME_FIELD(DepthWise_Conv_args, HWC);

SAME_SIZE(PointWise_Conv_args);
SAME_FIELD(PointWise_Conv_args, input);
SAME_FIELD(PointWise_Conv_args, coeff);
SAME_FIELD(PointWise_Conv_args, output);
SAME_FIELD(PointWise_Conv_args, transpose_buffer);
SAME_FIELD(PointWise_Conv_args, skip_wg_grad);
SAME_FIELD(PointWise_Conv_args, skip_in_grad);
SAME_FIELD(PointWise_Conv_args, HWC);

SAME_SIZE(Linear_args);
SAME_FIELD(Linear_args, input);
SAME_FIELD(Linear_args, coeff);
SAME_FIELD(Linear_args, bias);
SAME_FIELD(Linear_args, output);
SAME_FIELD(Linear_args, skip_wg_grad);
SAME_FIELD(Linear_args, skip_in_grad);
SAME_FIELD(Linear_args, use_biases);

SAME_SIZE(loss_args);
SAME_FIELD(loss_args, output);
SAME_FIELD(loss_args, target);
SAME_FIELD(loss_args, wr_loss);

SAME_SIZE(optim_args);
SAME_FIELD(optim_args, weights);
SAME_FIELD(optim_args, biases);
SAME_FIELD(optim_args, learning_rate);
SAME_FIELD(optim_args, weight_decay_lambda);
SAME_FIELD(optim_args, use_biases);

SAME_SIZE(pool_args);
SAME_FIELD(pool_args, input);
SAME_FIELD(pool_args, output);
SAME_FIELD(pool_args, Hker);
SAME_FIELD(pool_args, Wker);
SAME_FIELD(pool_args, Hstride);
SAME_FIELD(pool_args, Wstride);
