//! Choreographies that are sound, in the notation of [`super::cast`].

/// The samples of this repository: a charge that is taken back, and a gate that decides whether a customer may still cancel.
pub(crate) const SHOP: &str = "
    order place-order start emits OrderPlaced back PaymentDeclined,PaymentRefunded by OrderCancelled
    order cancel-order request emits OrderCancelRequested
    order complete-order local on ShipmentScheduled emits OrderCompleted
    payment charge-customer external on OrderPlaced emits PaymentCharged rejects PaymentDeclined back ShipmentFailed by PaymentRefunded
    shipping ship-order gate on PaymentCharged emits ShipmentScheduled rejects ShipmentFailed back OrderCancelRequested by ShipmentFailed
";

/// Three legs side by side, joined by the traveller: any of them may refuse, and then the others are taken back.
pub(crate) const TRAVEL: &str = "
    travel request-trip start emits TripRequested back FlightRefused,HotelRefused,CarRefused by TripCancelled
    travel note-flight local on FlightBooked emits TripCompleted joins note-hotel,note-car
    travel note-hotel local on HotelBooked emits TripCompleted joins note-flight,note-car
    travel note-car local on CarBooked emits TripCompleted joins note-flight,note-hotel
    flight book-flight external on TripRequested emits FlightBooked rejects FlightRefused back TripCancelled by FlightReleased
    hotel book-hotel external on TripRequested emits HotelBooked rejects HotelRefused back TripCancelled by HotelReleased
    car book-car external on TripRequested emits CarBooked rejects CarRefused back TripCancelled by CarReleased
";

/// The same, and the traveller may change their mind until a gate has passed.
pub(crate) const TRAVEL_WITH_A_GATE: &str = "
    travel request-trip start emits TripRequested back FlightRefused,HotelRefused,CarRefused,TripShut by TripCancelled
    travel cancel-trip request emits TripCancelRequested
    travel note-flight local on FlightBooked emits LegsBooked joins note-hotel,note-car
    travel note-hotel local on HotelBooked emits LegsBooked joins note-flight,note-car
    travel note-car local on CarBooked emits LegsBooked joins note-flight,note-hotel
    travel confirm-trip gate on LegsBooked emits TripCompleted back TripCancelRequested by TripShut
    flight book-flight external on TripRequested emits FlightBooked rejects FlightRefused back TripCancelled by FlightReleased
    hotel book-hotel external on TripRequested emits HotelBooked rejects HotelRefused back TripCancelled by HotelReleased
    car book-car external on TripRequested emits CarBooked rejects CarRefused back TripCancelled by CarReleased
";

/// Whoever says no by the first way is asked by the second; either pays.
pub(crate) const EITHER_WAY: &str = "
    shop sell start emits Sold back InvoiceRefused,Returned by SaleCancelled
    shop close local on Packed emits SaleCompleted
    card pay-by-card external on Sold emits CardPaid rejects CardRefused back NothingToPack by Returned
    bank pay-by-invoice local on CardRefused emits Invoiced rejects InvoiceRefused back NothingToPack by Returned
    store pack local on CardPaid,Invoiced first emits Packed rejects NothingToPack
";

/// All of them.
pub(crate) const SOUND: [(&str, &str); 4] =
    [("shop", SHOP), ("travel", TRAVEL), ("travel with a gate", TRAVEL_WITH_A_GATE), ("either way", EITHER_WAY)];
