//! The x86 part of a vCPU.
//!
//! Two halves, like its local APIC: what any CPU may touch at any time ([`X86Vcpu`]'s atomics and the shared half of the
//! APIC) and what belongs to the CPU that runs it ([`VcpuState`], under a lock of rank `VcpuState` that is held from
//! schedule-in to schedule-out). Control operations take the state lock of a vCPU that they have paused.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;

use radon_abi::errno::Errno;
use radon_abi::guest_context::VcpuGuestContext;
use radon_abi::vcpu::HvmContext;
use radon_core::domain::Domain;
use radon_core::platform::ArchVcpu;
use radon_core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use radon_core::sync::{Lock, Rank};
use radon_core::vcpu::Vcpu;

use crate::context::{self, registers};
use crate::devices::interrupt::Trigger;
use crate::devices::lapic::{Lapic, LapicShared};
use crate::domain::X86Domain;
use crate::msr::MsrState;
use crate::run::WalkCache;
use crate::virt::VirtualCpu;

/// What the CPU that runs a vCPU owns.
pub struct VcpuState {
    /// Registers and hardware state.
    pub cpu: Box<dyn VirtualCpu>,
    /// The owner's half of the local APIC.
    pub lapic: Lapic,
    /// MSRs that Radon keeps.
    pub msrs: MsrState,
    /// Reset by INIT and waiting for a start-up message.
    pub wait_for_sipi: bool,
    /// Page-table walks that were made before.
    pub walks: WalkCache,
}

/// The x86 part of a vCPU.
pub struct X86Vcpu {
    /// The half of the local APIC that other CPUs use.
    pub lapic: Arc<LapicShared>,
    /// Vector that event upcalls raise in the local APIC; 0 if upcalls use the domain's callback.
    pub upcall_vector: AtomicU8,
    /// An upcall with that vector waits until the guest turns its local APIC on. Who raises it says so, then looks whether the
    /// APIC is on; who turns it on looks here afterwards.
    pub upcall_waits: AtomicBool,
    /// An NMI waits to be delivered.
    pub nmi_pending: AtomicBool,
    /// The local APIC's timer is due.
    pub timer_due: AtomicBool,
    /// What the guest's time stamp counter is ahead of the domain's, for the clock it reads from memory.
    pub tsc_offset: AtomicU64,
    /// The rest.
    pub state: Lock<VcpuState>,
}

impl X86Vcpu {
    /// A vCPU of the given parts. `wait_for_sipi` for all but the one that boots.
    #[must_use]
    pub fn new(cpu: Box<dyn VirtualCpu>, lapic: Lapic, msrs: MsrState, wait_for_sipi: bool) -> X86Vcpu {
        X86Vcpu {
            lapic: lapic.shared().clone(),
            upcall_vector: AtomicU8::new(0),
            upcall_waits: AtomicBool::new(false),
            nmi_pending: AtomicBool::new(false),
            timer_due: AtomicBool::new(false),
            tsc_offset: AtomicU64::new(0),
            state: Lock::new(
                Rank::VcpuState,
                VcpuState { cpu, lapic, msrs, wait_for_sipi, walks: WalkCache::default() },
            ),
        }
    }

    /// The x86 part of a vCPU. `None` for a vCPU that some other architecture made, which does not happen.
    #[must_use]
    pub fn of(vcpu: &Vcpu) -> Option<&X86Vcpu> {
        vcpu.arch.as_any().downcast_ref()
    }
}

impl ArchVcpu for X86Vcpu {
    fn raise_upcall(&self) {
        match self.upcall_vector.load(Ordering::Relaxed) {
            // The domain's callback looks at the pending flag itself at each entry.
            0 => {}
            vector => {
                // A local APIC that the guest has not turned on yet takes nothing. The order matters: it may be turned on now.
                self.upcall_waits.store(true, Ordering::SeqCst);
                if self.lapic.is_software_enabled() {
                    self.upcall_waits.store(false, Ordering::SeqCst);
                    self.lapic.post(vector, Trigger::Edge);
                }
            }
        }
    }

    fn set_upcall_vector(&self, vector: u8) -> Result<(), Errno> {
        self.upcall_vector.store(vector, Ordering::Relaxed);
        Ok(())
    }

    fn raise_nmi(&self) {
        self.nmi_pending.store(true, Ordering::Release);
    }

    fn timer_expired(&self, _timer: u8) {
        self.timer_due.store(true, Ordering::Release);
    }

    fn tsc_offset(&self) -> u64 {
        self.tsc_offset.load(Ordering::Acquire)
    }

    fn initialise(&self, domain: &Domain, state: &HvmContext) -> Result<(), Errno> {
        let x86 = X86Domain::of(domain).ok_or(Errno::EOPNOTSUPP)?;
        context::start(&mut *self.state.try_lock().ok_or(Errno::EBUSY)?, &x86.cpuid, state)
    }

    fn guest_context(&self) -> Result<Box<VcpuGuestContext>, Errno> {
        Ok(registers::get(&*self.state.try_lock().ok_or(Errno::EBUSY)?))
    }

    fn set_guest_context(&self, context: &VcpuGuestContext) -> Result<(), Errno> {
        registers::set(&mut *self.state.try_lock().ok_or(Errno::EBUSY)?, context)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
