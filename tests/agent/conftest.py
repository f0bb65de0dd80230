from __future__ import annotations

from environment.env_sides import a_zygote as a_zygote
