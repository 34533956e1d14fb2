/* What bindgen reads for the rte_acl yardstick. */
#ifndef MARCH_PERF_ACL_H
#define MARCH_PERF_ACL_H

#include <rte_acl.h>
#include <rte_malloc.h>

/* Protocol, source and destination address, source and destination port. */
RTE_ACL_RULE_DEF(march_acl_rule, 5);

#endif
