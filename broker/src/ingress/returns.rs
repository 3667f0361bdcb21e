//! The way back for interests that nobody needs any more.

use std::sync::{Arc, OnceLock, Weak};

use clarion_bus::{Bus, BusHandle};
use clarion_hub::{Behind, Release};
use clarion_protocol::InterestId;

use super::Recovery;

/// Gives interests back to the bus, at once and without blocking.
///
/// A hub is started before the bus that delivers to it, so this is wired later; before that nothing stands that could go back.
#[derive(Default)]
pub struct Returns {
    /// Weak, since the bus holds the hub.
    bus: OnceLock<Weak<dyn Bus>>,
    /// Weak, since the hub holds this.
    recovery: OnceLock<Weak<Recovery>>,
}

impl Returns {
    /// Names the bus. The first one stays.
    pub fn wire(&self, bus: &BusHandle) {
        let _ = self.bus.set(Arc::downgrade(bus));
    }

    /// Names who follows logged interests. The first one stays.
    pub fn wire_recovery(&self, recovery: &Arc<Recovery>) {
        let _ = self.recovery.set(Arc::downgrade(recovery));
    }
}

impl Release for Returns {
    fn release(&self, interests: &[InterestId]) {
        if let Some(recovery) = self.recovery.get().and_then(Weak::upgrade) {
            recovery.release(interests);
        }
        // With the bus its interests are gone, too.
        if let Some(bus) = self.bus.get().and_then(Weak::upgrade) {
            interests.iter().for_each(|id| bus.unsubscribe(*id));
        }
    }

    fn fell_behind(&self, behind: Behind) {
        if let Some(recovery) = self.recovery.get().and_then(Weak::upgrade) {
            recovery.fell_behind(behind);
        }
    }
}
