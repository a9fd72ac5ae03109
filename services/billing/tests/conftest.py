"""What the tests of billing share."""

from vlinders_kit.testing import named

package = named("vlinders_billing")
