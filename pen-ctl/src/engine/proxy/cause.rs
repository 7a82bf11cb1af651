//! How a proxied connection ended. Each ends in exactly one way, which its line in the log says and a
//! counter counts. And why TLS was not agreed upon with a server, after which another one is asked.

macro_rules! causes {
    (
        $(#[doc = $of:literal])+ $all:ident:
        $($(#[doc = $doc:literal])+ $cause:ident = $name:literal,)+
    ) => {
        $(#[doc = $of])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $all { $($(#[doc = $doc])+ $cause,)+ }

        impl $all {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$cause,)+];

            /// The name that the operator sees.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$cause => $name,)+ }
            }

            /// What it means, in words: the documentation of the variant.
            #[must_use]
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$cause => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

causes! {
    /// How a connection ended.
    Cause:
    /// The client ended its half first, and all was carried over.
    ClientClosed = "client-closed",
    /// The server ended its half first, and all was carried over.
    ServerClosed = "server-closed",
    /// The client reset the connection.
    ClientReset = "client-reset",
    /// The server reset the connection.
    ServerReset = "server-reset",
    /// The client sent nothing for too long.
    ClientTimeout = "client-timeout",
    /// The server sent nothing for too long.
    ServerTimeout = "server-timeout",
    /// Neither side sent anything for too long.
    TunnelTimeout = "tunnel-timeout",
    /// One side had ended its half, and the other one sent nothing for too long.
    HalfClosedTimeout = "half-closed-timeout",
    /// No backend could be connected to, though some seemed usable.
    ConnectFailed = "connect-failed",
    /// No backend was usable.
    NoBackend = "no-backend",
    /// All usable backends had as many connections as they may have, and the queue was full.
    Full = "full",
    /// No place was free before the time in the queue was over.
    QueueTimeout = "queue-timeout",
    /// An access list denied the client, and there was no server for such.
    Denied = "denied",
    /// The source had as many connections as one may have.
    SourceLimit = "source-limit",
    /// A header of the PROXY protocol was to come first, and its sender is not trusted, or none came
    /// that is valid and in time.
    BadHeader = "bad-header",
    /// The client and the proxy had not agreed upon TLS in time.
    HandshakeTimeout = "handshake-timeout",
    /// The client ended while it was agreeing upon TLS.
    HandshakeAborted = "handshake-aborted",
    /// The client spoke something else where it was to speak TLS.
    NotTls = "not-tls",
    /// The client asked for a name that no certificate has.
    UnknownName = "unknown-name",
    /// The client speaks no version, cipher or protocol that the service speaks.
    TlsIncompatible = "tls-incompatible",
    /// The client showed no certificate, or none that is good.
    BadClientCertificate = "bad-client-certificate",
    /// The client ended the handshake with an alert: most do so that do not trust the certificate.
    CertificateRefused = "certificate-refused",
    /// The client broke the rules of TLS, or somebody altered what it sent.
    TlsBroken = "tls-broken",
    /// The client went away without the notice by which TLS ends, and something may be missing.
    TlsTruncated = "tls-truncated",
    /// The server broke the rules of TLS or ended it by an alert, or somebody altered what it sent.
    ServerTlsBroken = "server-tls-broken",
    /// The server went away without the notice by which TLS ends, and something may be missing.
    ServerTlsTruncated = "server-tls-truncated",
    /// Nothing was said on a flow of UDP for its time: the usual end of one.
    FlowIdle = "flow-idle",
    /// A flow of UDP that was silent gave way to a new one: there were as many as there may be.
    FlowDisplaced = "flow-displaced",
    /// A datagram that would have begun a flow of UDP was dropped: there were as many as there may be,
    /// and none that was silent.
    FlowLimit = "flow-limit",
    /// This machine was short of descriptors, ports or memory.
    Local = "local",
    /// The operator closed it, or took its backend into maintenance.
    Killed = "killed",
    /// A request of HTTP was malformed, or may be understood in several ways: it was answered with 400.
    BadRequest = "bad-request",
    /// The head of a request of HTTP did not come in time: answered with 408, unless nothing came.
    RequestTimeout = "request-timeout",
    /// The head of a request of HTTP was too large: it was answered with 431.
    RequestTooLarge = "request-too-large",
}

causes! {
    /// Why TLS was not agreed upon with a server.
    ServerFault:
    /// A server showed a certificate that is not good: expired, for another name, or by somebody unknown.
    Untrusted = "untrusted",
    /// A server ended the handshake by an alert.
    Refused = "refused",
    /// A server ended the connection in the middle of the handshake.
    Closed = "closed",
    /// A server had not agreed upon TLS when the time to connect was over.
    Silent = "timeout",
    /// A server speaks no version, cipher or protocol that the service asks for.
    Incompatible = "incompatible",
    /// A server did not speak TLS, or broke its rules.
    Broken = "broken",
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_cause_has_a_name_of_its_own_and_a_sentence() {
        let names: BTreeSet<_> = Cause::ALL.iter().map(|cause| cause.name()).collect();
        assert_eq!(names.len(), Cause::ALL.len());
        for (number, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, number);
            assert!(cause.describe().ends_with('.') && !cause.describe().contains('`'));
        }
        for (number, fault) in ServerFault::ALL.iter().enumerate() {
            assert_eq!(*fault as usize, number);
            assert!(fault.describe().ends_with('.') && !fault.name().contains(' '));
        }
    }
}
