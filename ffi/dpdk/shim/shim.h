/* What bindgen reads, and the functions of shim.c: DPDK's static inlines, macros and thread-local variables behind
 * ordinary symbols. Called per burst or off the hot path, never per packet. */
#ifndef MARCH_DPDK_SHIM_H
#define MARCH_DPDK_SHIM_H

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

uint16_t march_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count);
uint16_t march_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count);
struct rte_mbuf *march_mbuf_alloc(struct rte_mempool *pool);
void march_mbuf_free(struct rte_mbuf *packet);
int march_mbuf_linearize(struct rte_mbuf *packet);
int march_errno(void);
unsigned int march_lcore_id(void);

/* 64-bit shifts in macros, which bindgen does not evaluate. */
static const uint64_t MARCH_TX_OFFLOAD_FAST_FREE = RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
static const uint64_t MARCH_TX_OFFLOAD_IPV4_CHECKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t MARCH_TX_OFFLOAD_TCP_CHECKSUM = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
static const uint64_t MARCH_TX_OFFLOAD_UDP_CHECKSUM = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t MARCH_TX_OFFLOAD_MULTI_SEGMENT = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t MARCH_RX_OFFLOAD_CHECKSUM = RTE_ETH_RX_OFFLOAD_CHECKSUM;
static const uint64_t MARCH_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t MARCH_RSS_IP_TCP_UDP = RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP;
static const uint32_t MARCH_LCORE_NONE = LCORE_ID_ANY;
static const int32_t MARCH_SOCKET_ANY = SOCKET_ID_ANY;

#endif
