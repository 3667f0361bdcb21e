//! The node's messages to itself, which show that the link really brings what is published.

use clarion_protocol::{Address, InternalName};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The probe's subscription. The table's own numbers begin far above.
pub(crate) const PROBE_SID: u64 = 1;

/// Probes on their way. Each bus has a subject of its own for them.
#[derive(Debug)]
pub(crate) struct Probes {
    name: InternalName,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    probes: Vec<(u64, oneshot::Sender<()>)>,
}

impl Probes {
    /// A subject that nobody else has.
    pub(crate) fn new() -> Self {
        let name = InternalName::parse(&format!("probe.{:032x}", rand::random::<u128>()));
        Self { name: name.expect("hexadecimal digits are allowed"), waiting: Mutex::default() }
    }

    /// Where they go.
    pub(crate) fn address(&self) -> Address {
        self.name.clone().into()
    }

    /// The last part of that address.
    pub(crate) fn name(&self) -> &str {
        self.name.as_str()
    }

    /// A new probe: what to send, and what tells that it came back.
    pub(crate) fn begin(&self) -> (String, oneshot::Receiver<()>) {
        let (back, wait) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        waiting.probes.retain(|(_, back)| !back.is_closed());
        waiting.last += 1;
        let number = waiting.last;
        waiting.probes.push((number, back));
        (number.to_string(), wait)
    }

    /// One came back.
    pub(crate) fn came(&self, payload: &[u8]) {
        let Some(number) = std::str::from_utf8(payload).ok().and_then(|text| text.parse::<u64>().ok()) else { return };
        let mut waiting = self.waiting.lock();
        if let Some(at) = waiting.probes.iter().position(|(probe, _)| *probe == number) {
            // Whoever asked may have stopped waiting.
            let _ = waiting.probes.swap_remove(at).1.send(());
        }
    }
}
