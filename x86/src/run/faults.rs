//! What an exception becomes that is raised while another event is being delivered (AMD64 manual volume 2, 8.2.9).

use crate::emulate::{VECTOR_DE, VECTOR_GP, VECTOR_PF, VECTOR_SS};
use crate::virt::Event;

const VECTOR_DF: u8 = 8;
const VECTOR_TS: u8 = 10;
const VECTOR_NP: u8 = 11;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

fn class(event: Event) -> Class {
    match event {
        Event::Exception { vector: VECTOR_PF, .. } => Class::PageFault,
        Event::Exception { vector: VECTOR_DF, .. } => Class::DoubleFault,
        Event::Exception { vector: VECTOR_DE | VECTOR_TS | VECTOR_NP | VECTOR_SS | VECTOR_GP, .. } => {
            Class::Contributory
        }
        _ => Class::Benign,
    }
}

/// What is delivered when `new` is raised while `pending` is being delivered. `None`: the processor shuts down.
///
/// Where both are simply handled one after the other, the new one comes first; the pending one is lost, as on a
/// processor, unless its instruction raises it again.
pub(super) fn combine(pending: Option<Event>, new: Event) -> Option<Event> {
    let Some(pending) = pending else { return Some(new) };
    match (class(pending), class(new)) {
        (Class::DoubleFault, Class::Contributory | Class::PageFault | Class::DoubleFault) => None,
        (Class::Contributory, Class::Contributory) | (Class::PageFault, Class::Contributory | Class::PageFault) => {
            Some(Event::Exception { vector: VECTOR_DF, error_code: Some(0) })
        }
        _ => Some(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_the_manual() {
        let fault = |vector| Event::Exception { vector, error_code: Some(0) };
        let double = Some(fault(8));
        let (de, db, ud, gp, pf) = (fault(0), fault(1), Event::UD, Event::GP, fault(14));
        for benign in [Event::Interrupt(0x30), Event::Nmi, Event::Software { vector: 0x80 }, db, ud] {
            for new in [de, db, ud, gp, pf] {
                assert_eq!(combine(Some(benign), new), Some(new), "{benign:?} then {new:?}");
            }
        }
        for (first, second, result) in [
            (gp, gp, double),
            (de, gp, double),
            (gp, pf, Some(pf)),
            (gp, ud, Some(ud)),
            (pf, gp, double),
            (pf, pf, double),
            (pf, db, Some(db)),
            (fault(8), gp, None),
            (fault(8), pf, None),
            (fault(8), ud, Some(ud)),
        ] {
            assert_eq!(combine(Some(first), second), result, "{first:?} then {second:?}");
        }
        assert_eq!(combine(None, gp), Some(gp));
    }
}
