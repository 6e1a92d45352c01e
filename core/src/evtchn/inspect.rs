//! What an audit ([`crate::testing::audit`]) has to know of event channels.

use crate::sync::atomic::Ordering;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::channel::Binding;
use super::{EventChannels, VcpuEvents};
use crate::domain::Domain;
use crate::types::{DomainId, Mfn, Port};

/// What an open port is bound to, as plain numbers.
pub(crate) type Bound = (u8, DomainId, u32);

impl EventChannels {
    /// Frames that are held for the FIFO ABI.
    pub(crate) fn pins(&self) -> Vec<Mfn> {
        let table = self.table.lock();
        table.array.iter().chain(&table.controls).map(super::Pin::mfn).collect()
    }

    /// All open ports: what they are bound to, and which vCPU they notify.
    pub(crate) fn ports(&self) -> Vec<(Port, Bound, u32)> {
        let table = self.table.lock();
        let bound = |port| {
            let state = self.channels.get(port)?.state.lock();
            let bound = match &state.binding {
                Binding::Free => (0, DomainId(0), 0),
                Binding::Unbound { remote } => (1, *remote, 0),
                Binding::Interdomain { remote_id, remote_port, .. } => (2, *remote_id, remote_port.0),
                Binding::Virq { virq } => (3, DomainId(0), *virq),
                Binding::Ipi => (4, DomainId(0), 0),
            };
            Some((port, bound, state.vcpu.0))
        };
        table.open_ports().filter_map(bound).collect()
    }

    /// Whether the tables of ports, of their bindings and of virtual interrupts agree.
    ///
    /// # Errors
    /// What does not.
    pub(crate) fn check(&self, domain: &Arc<Domain>) -> Result<(), String> {
        let ports = self.ports();
        let table = self.table.lock();
        if table.open as usize != ports.len() {
            return Err(format!("{}: {} ports are open, but {} counted", domain.id, ports.len(), table.open));
        }
        drop(table);
        for (port, bound, vcpu) in ports {
            let wrong = |what: &str| Err(format!("{} port {}: {what}", domain.id, port.0));
            // A domain can close its ports only with its vCPUs there still.
            if bound.0 != 1 && domain.vcpu(crate::types::VcpuId(vcpu)).is_none() && bound.0 != 2 {
                return wrong("notifies a vCPU that does not exist");
            }
            match bound {
                (0, ..) => return wrong("open, but not bound"),
                (2, remote_id, remote_port) => {
                    let Some(channel) = self.channels.get(port) else { return wrong("has no channel") };
                    let remote = match &channel.state.lock().binding {
                        Binding::Interdomain { remote, .. } => remote.upgrade(),
                        _ => None,
                    };
                    let Some(remote) = remote else { return wrong("its peer's domain is gone") };
                    let Some(back) = remote.events.channels.get(Port(remote_port)) else {
                        return wrong("its peer does not exist");
                    };
                    match back.state.lock().binding {
                        Binding::Interdomain { remote_id: id, remote_port: p, .. } if id == domain.id && p == port => {}
                        _ => return Err(format!("{} port {}: {remote_id} does not agree", domain.id, port.0)),
                    }
                }
                (3, _, virq) => {
                    let names = |v: &Arc<crate::vcpu::Vcpu>| {
                        v.events.virqs.get(virq as usize).is_some_and(|p| p.load(Ordering::SeqCst) == port.0)
                    };
                    if !domain.vcpus().iter().any(names) {
                        return wrong("no vCPU knows its virtual interrupt");
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl VcpuEvents {
    /// The frame that is held for its `vcpu_info`.
    pub(crate) fn pin(&self) -> Option<Mfn> {
        self.registered.lock().as_ref().map(super::Pin::mfn)
    }
}
