//! What a service lets clients open: new flows per second, and TCP handshakes at once.

use march_flow::{Rate, TokenBucket};
use march_tables::{Service, ServiceId};
use march_wire::{DropReason, ip};

use crate::context::Now;
use crate::counters::Counters;

/// Buckets of new flows, by service.
pub(crate) struct Admission {
    buckets: Box<[TokenBucket]>,
}

impl Admission {
    /// For every service that can be. Allocates everything now.
    pub fn new() -> Self {
        Self {
            buckets: vec![TokenBucket::default(); usize::from(u16::MAX)].into(),
        }
    }

    /// Whether there is anything to ask [`Admission::admit`] about.
    #[inline]
    pub fn is_asked(service: &Service) -> bool {
        service.limits.new_per_second != 0 || service.limits.half_open != 0
    }

    /// Whether `service` takes one more flow now; what it may open this second is one less then.
    ///
    /// # Errors
    /// `new_connection_rate` or `half_open_limit`.
    pub fn admit(
        &mut self,
        id: ServiceId,
        service: &Service,
        counters: &Counters,
        now: Now,
    ) -> Result<(), DropReason> {
        let limits = service.limits;
        let per_second = u64::from(limits.new_per_second);
        if per_second != 0
            && let Some(bucket) = self.buckets.get_mut(usize::from(id))
            && !bucket.take(&Rate::new(per_second, per_second), 1, now.ms)
        {
            return Err(DropReason::NewConnectionRate);
        }
        let half_open = counters
            .services
            .get(usize::from(id))
            .map_or(0, |service| service.half_open.get());
        if service.protocol == ip::TCP
            && limits.half_open != 0
            && half_open >= u64::from(limits.half_open)
        {
            return Err(DropReason::HalfOpenLimit);
        }
        Ok(())
    }
}
