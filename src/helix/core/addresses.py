"""Which addresses are never called, whatever a URL or the DNS says.

Operators have providers and nodes on this machine or in its network (Ollama, vLLM): loopback and
private addresses are allowed to those whose `private` says so. What never is: the link-local
network, where clouds keep the credentials of the machine, and what names no single host.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

__all__ = ["refusal_of_address"]

_METADATA = frozenset(
    {
        IPv4Address("100.100.100.200"),  # Alibaba
        IPv4Address("168.63.129.16"),  # Azure's host agent
        IPv4Address("192.0.0.192"),  # Oracle
        IPv6Address("fd00:ec2::254"),  # AWS
        IPv6Address("fd20:ce::254"),  # Google
    }
)
_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_THIS_NETWORK = IPv4Network("0.0.0.0/8")


def refusal_of_address(address: str, *, private: bool) -> str | None:
    """Return why this address, as the resolver gave it, is not called; None when it may be."""
    try:
        told = ip_address(address.partition("%")[0])
    except ValueError:
        return "its address cannot be read"
    for one in (told, *_inside(told)):
        if one in _METADATA or one.is_link_local:
            return f"{one} is where machines keep their credentials, not a provider"
        if one.is_multicast or one.is_unspecified or _is_nobody(one):
            return f"{one} is no address of a host"
        if not private and not one.is_global:
            return f"{one} is a private address, which this provider may not have"
    return None


def _is_nobody(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        return address.is_site_local
    return address in _THIS_NETWORK or address.packed[0] >= 240


def _inside(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """Return the IPv4 addresses that an IPv6 address carries, by every way there is."""
    if isinstance(address, IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    low = IPv4Address(address.packed[12:])
    if address in _NAT64 or address in _NAT64_LOCAL or address.packed[:12] == bytes(12):
        found.append(low)
    if address == IPv6Address(1):
        return []
    return [one for one in found if one is not None]
