//! The instruction that reaches the host.

use super::message::{Door, Registers};
use anyhow::anyhow;
use vmw_backdoor::BackdoorGuard;

/// `VMXh`.
const MAGIC: u32 = 0x564d_5868;

/// The right to use the port, of this thread.
pub(super) struct Backdoor {
    _right: BackdoorGuard,
}

/// Asks for the right, and whether a host is there.
pub(super) fn open() -> anyhow::Result<Backdoor> {
    let right = vmw_backdoor::probe_backdoor_privileged().map_err(|error| anyhow!("{error}"))?;
    Ok(Backdoor { _right: right })
}

impl Door for Backdoor {
    fn call(&mut self, registers: Registers) -> Registers {
        let Registers { ebx, mut ecx, mut edx, mut esi, mut edi } = registers;
        let mut rbx = u64::from(ebx);
        // SAFETY: this thread may use the port (`_right`), and a host that listens there has answered: it reads and
        // writes the named registers, in low bandwidth no memory. rbx is not ours to name, so it is swapped in and out.
        unsafe {
            core::arch::asm!(
                "xchg {rbx}, rbx",
                "in eax, dx",
                "xchg {rbx}, rbx",
                rbx = inout(reg) rbx,
                inout("eax") MAGIC => _,
                inout("ecx") ecx,
                inout("edx") edx,
                inout("esi") esi,
                inout("edi") edi,
                options(nostack),
            );
        }
        let ebx = u32::try_from(rbx & u64::from(u32::MAX)).unwrap_or_default();
        Registers { ebx, ecx, edx, esi, edi }
    }
}
