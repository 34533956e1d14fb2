#include "shim.h"

uint16_t march_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, packets, count);
}

uint16_t march_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, packets, count);
}

struct rte_mbuf *march_mbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

void march_mbuf_free(struct rte_mbuf *packet)
{
	rte_pktmbuf_free(packet);
}

int march_mbuf_linearize(struct rte_mbuf *packet)
{
	return rte_pktmbuf_linearize(packet);
}

int march_errno(void)
{
	return rte_errno;
}

unsigned int march_lcore_id(void)
{
	return rte_lcore_id();
}
