//! I4 and I5: what is nowhere taken and nowhere lost.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, Invariant};

impl Check<'_> {
    /// I4: what the gateway keeps = the payments that stand = the completed orders, in sum and for each saga. A saga that waits
    /// for a person counts with what the gateway keeps of it.
    pub(super) fn money(&mut self) {
        self.each(Invariant::Money, |saga| {
            let mut wrong = Vec::new();
            let standing: i64 = saga.payments.iter().filter(|p| p.state == "charged").map(|p| p.cents).sum();
            let completed: i64 = saga.orders.iter().filter(|o| o.state == "completed").map(|o| o.cents).sum();
            let kept = saga.kept();
            if !saga.needs_a_person() && (kept != standing || standing != completed) {
                wrong.push(format!("the gateway keeps {kept}, payments say {standing}, completed orders {completed}"));
            }
            for payment in saga.payments.iter().filter(|payment| payment.state == "charged") {
                let known = saga.charges.iter().any(|charge| charge.receipt == payment.receipt);
                if payment.receipt.is_none() || !known {
                    wrong.push(format!("a payment stands on a receipt that the gateway does not know: {payment:?}"));
                }
            }
            wrong
        });
        let kept: i64 = self.sagas.values().map(super::Saga::kept).sum();
        let totals = self.observed.gateway.totals.kept;
        if kept != totals {
            self.violate(Invariant::Money, "", format!("the gateway says it keeps {totals}, its rows say {kept}"));
        }
        let settled = self.sagas.values().filter(|saga| !saga.needs_a_person());
        let (mut kept, mut standing, mut completed) = (0, 0, 0);
        for saga in settled {
            kept += saga.kept();
            standing += saga.payments.iter().filter(|p| p.state == "charged").map(|p| p.cents).sum::<i64>();
            completed += saga.orders.iter().filter(|o| o.state == "completed").map(|o| o.cents).sum::<i64>();
        }
        if kept != standing || standing != completed {
            let what =
                format!("in sum the gateway keeps {kept}, payments say {standing}, completed orders {completed}");
            self.violate(Invariant::Money, "", what);
        }
    }

    /// I5: what left the stock = what was shipped = what completed orders ordered.
    pub(super) fn stock(&mut self) {
        self.each(Invariant::Stock, |saga| {
            let shipped: BTreeSet<_> = saga.shipments.iter().map(|s| (&s.order_id, &s.item, s.quantity)).collect();
            let completed = saga.orders.iter().filter(|order| order.state == "completed");
            let completed: BTreeSet<_> = completed.map(|o| (&o.id, &o.item, o.quantity)).collect();
            if !saga.needs_a_person() && shipped != completed {
                return vec![format!("shipped {shipped:?}, completed {completed:?}")];
            }
            Vec::new()
        });
        let mut shipped = BTreeMap::<&str, i64>::new();
        for shipment in &self.observed.shipments {
            *shipped.entry(&shipment.item).or_default() += shipment.quantity;
        }
        for stock in &self.observed.stock {
            let (taken, shipped) = (stock.initial - stock.free, shipped.remove(stock.item.as_str()).unwrap_or(0));
            if taken != shipped || stock.free < 0 {
                let what =
                    format!("of {} {taken} were taken and {shipped} shipped, {} are left", stock.item, stock.free);
                self.violate(Invariant::Stock, "", what);
            }
        }
        for (item, shipped) in shipped {
            self.violate(Invariant::Stock, "", format!("{shipped} {item} were shipped, and there is no such stock"));
        }
    }
}
