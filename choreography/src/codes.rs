//! Codes of what is found: a name that stays, a title, and how bad it is.

/// `codes! { /// Doc. Name, /// Doc. Variant "SG001" Error "title", .. }` declares an enum of codes, in their order.
macro_rules! codes {
    ($(#[$doc:meta])* $of:ident, $($(#[$meta:meta])* $variant:ident $code:literal $severity:ident $title:literal,)+) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $of {
            $($(#[$meta])* $variant,)+
        }

        impl $of {
            /// Every code, in their order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name, such as `SG007` or `SD003`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// What it says, in one line.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),+ }
            }

            /// How bad it is unless the caller says otherwise.
            pub const fn severity(self) -> $crate::finding::Severity {
                match self { $(Self::$variant => $crate::finding::Severity::$severity),+ }
            }
        }

        impl std::fmt::Display for $of {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl serde::Serialize for $of {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }
    };
}

pub(crate) use codes;
