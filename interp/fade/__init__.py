"""How good a description is: the four metrics of FADE (Puri et al. 2025) and further ones, each with an interval."""
