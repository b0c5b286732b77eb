use saga_core::Event;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! event {
    ($name:ident) => {
        #[derive(Serialize, Deserialize, JsonSchema)]
        pub struct $name {}
        impl Event for $name {
            const TYPE: &'static str = concat!("test.", stringify!($name), ".v1");
            const TOPIC: &'static str = "test";
        }
    };
}
event!(Paid);
event!(Shipped);
event!(Missed);
event!(TakenBack);
