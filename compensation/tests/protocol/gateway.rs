//! The gateway: another company's system, which moves the money and remembers keys as well as it is said to.

use crate::{
    payment::{Ask, Reply},
    rules::Rules,
};

/// How a call in doubt is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// Cancel under the key: what took effect is taken back, and what still travels will be refused.
    VoidKey,
    /// Repeat the call under the key and reverse what it says. Needs a gateway that remembers every answer.
    Repeat,
    /// Only ask whether it took effect. Wrong: the request may still travel.
    LookUp,
}

/// What the gateway remembers about the key of the charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Unknown,
    Accepted,
    Declined,
    Closed,
}

/// Counting ends here: a broken rule may charge without end, and one too many is as wrong as a hundred.
const MANY: u8 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Gateway {
    key: Key,
    refund_key_used: bool,
    pub(crate) charges: u8,
    pub(crate) refunds: u8,
}

impl Gateway {
    pub(crate) const NEW: Gateway = Gateway { key: Key::Unknown, refund_key_used: false, charges: 0, refunds: 0 };

    /// Money that the gateway keeps of the customer's.
    pub(crate) fn kept(&self) -> i8 {
        self.charges.cast_signed() - self.refunds.cast_signed()
    }

    /// A request arrives. `willing` is what the gateway decides where no key decides for it.
    pub(crate) fn serve(
        &mut self,
        ask: Ask,
        doubt: Doubt,
        forgets_refusals: bool,
        rules: &Rules,
        willing: bool,
    ) -> Reply {
        match (ask, doubt) {
            (Ask::Charge, _) => return self.charge(forgets_refusals, rules, willing),
            (Ask::Refund, _) | (Ask::CloseKey, Doubt::LookUp) => self.refund(rules),
            (Ask::CloseKey, Doubt::VoidKey) => {
                self.refund(rules);
                if self.key != Key::Accepted {
                    self.key = Key::Closed;
                }
            }
            (Ask::CloseKey, Doubt::Repeat) => {
                if self.charge(forgets_refusals, rules, willing) == Reply::Accepted {
                    self.refund(rules);
                }
            }
        }
        Reply::Accepted
    }

    fn charge(&mut self, forgets_refusals: bool, rules: &Rules, willing: bool) -> Reply {
        match self.key {
            Key::Accepted if rules.charge_key => Reply::Accepted,
            Key::Declined if !forgets_refusals => Reply::Declined,
            Key::Closed => Reply::Declined,
            Key::Unknown | Key::Accepted | Key::Declined if willing => {
                self.key = Key::Accepted;
                self.charges = (self.charges + 1).min(MANY);
                Reply::Accepted
            }
            Key::Unknown | Key::Accepted | Key::Declined => {
                self.key = Key::Declined;
                Reply::Declined
            }
        }
    }

    fn refund(&mut self, rules: &Rules) {
        if self.key == Key::Accepted && (!self.refund_key_used || !rules.refund_key) {
            self.refunds = (self.refunds + 1).min(MANY);
            self.refund_key_used = true;
        }
    }
}
