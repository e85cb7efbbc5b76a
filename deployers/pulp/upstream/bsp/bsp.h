/* Upstream's headers include the PULP SDK's board support; no fp32 kernel uses it. */
